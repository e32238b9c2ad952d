"""Run folders: the names of their files, what is in them, and the training log.

May import: `errors`, `system`, `config`, `imaging`, `stats`, `recist`, `data`, `method`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
