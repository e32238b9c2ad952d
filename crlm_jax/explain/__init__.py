"""Where a trained segmenter looks, and what its critic sees of a prediction.

May import: every package below it; never `training` or `report`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
