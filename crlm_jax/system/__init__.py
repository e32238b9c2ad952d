"""What the program needs of the machine it runs on: files, console, processes, signals, profiles.

May import: `errors`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
