"""Runs `python -m crlm_jax.predict`."""

import sys

from crlm_jax.predict.command import main

sys.exit(main())
