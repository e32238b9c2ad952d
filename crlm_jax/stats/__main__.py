"""Runs `python -m crlm_jax.stats`."""

import sys

from crlm_jax.stats.command import main

sys.exit(main())
