"""Runs `python -m crlm_jax.recist`."""

from crlm_jax.recist.command import main
from crlm_jax.system.console import run

run(main)
