"""Runs `python -m crlm_jax.data.tcia`."""

from crlm_jax.data.tcia.command import main
from crlm_jax.system.console import run

run(main)
