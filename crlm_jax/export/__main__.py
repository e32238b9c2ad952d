"""Runs `python -m crlm_jax.export`."""

from crlm_jax.export.command import main
from crlm_jax.system.console import run

run(main)
