"""Runs `python -m crlm_jax.stats`."""

from crlm_jax.stats.command import main
from crlm_jax.system.console import run

run(main)
