"""Images, masks and lesions: reading, axial slices, grey levels, resampling, contours, writing.

May import: `errors`, `system`. `conditions` imports no reader of images.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
