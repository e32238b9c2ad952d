"""Flax modules: segmenters, image (B, H, W, 3) -> logits, and critics, image -> stage features.

May import: `errors` alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
