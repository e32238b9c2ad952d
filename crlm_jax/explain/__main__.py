"""Runs `python -m crlm_jax.explain`."""

from crlm_jax.explain.command import main
from crlm_jax.system.console import run

run(main)
