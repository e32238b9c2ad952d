"""Measures of the test cases: overlap, surfaces, lesions, volumes, responses, and their table.

May import: every package below it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
