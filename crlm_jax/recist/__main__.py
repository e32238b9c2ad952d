"""Runs `python -m crlm_jax.recist`."""

import sys

from crlm_jax.recist.command import main

sys.exit(main())
