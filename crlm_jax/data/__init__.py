"""Cohorts, slices and batches: from `cohort.csv` or the phantom to what a training step takes.

May import: `errors`, `system`, `config`, `imaging`, `stats`; never `method` or `models`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
