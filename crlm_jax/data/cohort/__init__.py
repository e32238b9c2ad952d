"""`cohort.csv`: read into cases, checked, and made from folders.

May import: what `data` may.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
