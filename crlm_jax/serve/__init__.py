"""A DICOM node: takes series from a PACS, segments them, and sends the results back.

May import: every package below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
