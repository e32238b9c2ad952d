"""The public CT collection Colorectal-Liver-Metastases as a cohort.

May import: what `data` may.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
