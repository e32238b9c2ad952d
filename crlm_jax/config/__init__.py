"""The configuration of an experiment: its schema, its checks, its JSON, its command-line flags.

May import: `errors`, `system`. `flags` defines absl flags when it is imported; import it by name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
