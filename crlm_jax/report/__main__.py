"""Runs `python -m crlm_jax.report`."""

import sys

from crlm_jax.report.command import main

sys.exit(main())
