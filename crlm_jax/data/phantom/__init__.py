"""A digital cohort: bodies, metastases, and the physics of DWI, T2WI and CT.

May import: what `data` may.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
