"""Runs `python -m crlm_jax.data.cohort`."""

import sys

from crlm_jax.data.cohort.command import main

sys.exit(main())
