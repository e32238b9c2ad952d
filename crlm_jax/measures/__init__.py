"""What is measured of the test cases: overlap, lesions, surfaces, volumes, responses.

May import: every package below it, the run folders included.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
