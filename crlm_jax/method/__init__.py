"""The method: networks, losses, the training step, checkpoints, a trained segmenter, attribution.

May import: `errors`, `system`, `config`, `models`; never `data` or `imaging`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
