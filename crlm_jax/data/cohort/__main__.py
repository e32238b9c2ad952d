"""Runs `python -m crlm_jax.data.cohort`."""

from crlm_jax.data.cohort.command import main
from crlm_jax.system.console import run

run(main)
