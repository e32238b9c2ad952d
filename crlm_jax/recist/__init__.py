"""Response to chemotherapy by RECIST 1.1, from the lesions of masks and the places of scans.

May import: `errors`, `system`, `imaging`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
