"""Runs `python -m crlm_jax.export`."""

import sys

from crlm_jax.export.command import main

sys.exit(main())
