"""DICOM series, diffusion series and segmentations. Only this package imports highdicom.

May import: `errors`, `system`, and the rest of `imaging`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
