"""Runs `python -m crlm_jax.plan`."""

from crlm_jax.plan.command import main
from crlm_jax.system.console import run

run(main)
