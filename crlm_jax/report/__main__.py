"""Runs `python -m crlm_jax.report`."""

from crlm_jax.report.command import main
from crlm_jax.system.console import run

run(main)
