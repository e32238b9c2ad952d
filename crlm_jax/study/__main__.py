"""Runs `python -m crlm_jax.study`."""

from crlm_jax.study.command import main
from crlm_jax.system.console import run

run(main)
