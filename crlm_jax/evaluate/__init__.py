"""Evaluation without a training: a run on another cohort, and masks of any tool.

May import: every package below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
