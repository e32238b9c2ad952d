"""Runs `python -m crlm_jax.data.phantom`."""

import sys

from crlm_jax.data.phantom.command import main

sys.exit(main())
