"""Runs `python -m crlm_jax.evaluate`."""

from crlm_jax.evaluate.command import main
from crlm_jax.system.console import run

run(main)
