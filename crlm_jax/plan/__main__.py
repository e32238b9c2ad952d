"""Runs `python -m crlm_jax.plan`."""

import sys

from crlm_jax.plan.command import main

sys.exit(main())
