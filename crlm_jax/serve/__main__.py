"""Runs `python -m crlm_jax.serve`."""

from crlm_jax.serve.command import main
from crlm_jax.system.console import run

run(main)
