"""Runs `python -m crlm_jax.predict`."""

from crlm_jax.predict.command import main
from crlm_jax.system.console import run

run(main)
