"""What computes the network of a prediction: XLA, or OpenVINO on a CPU with bfloat16 units.

An engine replaces one thing: the map of a batch of slices to their probability. Only `xla` and
`translate` load JAX, and only where a run is not yet translated; only `choice`, `openvino_model`,
`rules`, `translate` and `values` load OpenVINO.

May import: what `predict` may.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
