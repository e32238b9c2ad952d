"""What a training would cost on Cloud TPU, by the TPU compiler, with no TPU at hand.

May import: every package below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
