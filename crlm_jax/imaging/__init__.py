"""Images, masks and lesions: read, turned to axial slices, windowed, resized, measured, written.

May import: `errors`, `system`. `conditions` imports no reader of images.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
