"""Statistics over patients: bootstrap, paired comparison, agreement, Table 1.

May import: `errors`, `system`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
