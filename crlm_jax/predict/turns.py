"""The mean of what a network says of the 8 flips and quarter turns of every slice."""

import numpy as np

from crlm_jax.predict.engine.doubt import Network, Rounded, in_doubt


def average_turns(network: Network, batch: np.ndarray) -> np.ndarray:
    """Maps (B, S, S, C) uint8 to the mean probability (B, S, S) float32.

    Of a network in bfloat16, what counts is the mask of the mean: a slice whose mean leaves the
    mask in doubt is computed again in float32, in all 8.
    """
    if not isinstance(network, Rounded):
        return _average(network, batch)
    found = _average(network.fast, batch)
    for z, own in enumerate(found):
        if in_doubt(own, network.threshold):
            found[z] = _average(network.exactly, batch[z : z + 1])[0]
    return found


def _average(network: Network, batch: np.ndarray) -> np.ndarray:
    total = np.zeros(batch.shape[:3], np.float32)
    for turns in range(4):
        for flip in (slice(None), slice(None, None, -1)):
            seen = np.ascontiguousarray(np.rot90(batch, turns, (1, 2))[:, :, flip])
            total += np.rot90(network(seen)[:, :, flip], -turns, (1, 2))
    return total / 8
