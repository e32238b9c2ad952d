"""A trained segmenter as StableHLO and ONNX, with an example that segments scans with it.

May import: every package below it; never `training` or `report`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
