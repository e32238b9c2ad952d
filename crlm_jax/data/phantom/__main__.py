"""Runs `python -m crlm_jax.data.phantom`."""

from crlm_jax.data.phantom.command import main
from crlm_jax.system.console import run

run(main)
