"""Runs `python -m crlm_jax.data.tcia`."""

import sys

from crlm_jax.data.tcia.command import main

sys.exit(main())
