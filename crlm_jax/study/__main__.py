"""Runs `python -m crlm_jax.study`."""

import sys

from crlm_jax.study.command import main

sys.exit(main())
