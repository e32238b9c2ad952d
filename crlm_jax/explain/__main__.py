"""Runs `python -m crlm_jax.explain`."""

import sys

from crlm_jax.explain.command import main

sys.exit(main())
