"""The mean of what a network says of the 8 flips and quarter turns of every slice."""

import functools

import numpy as np

from crlm_jax.predict.engine.doubt import Network, Rounded


def average_turns(network: Network, batch: np.ndarray) -> np.ndarray:
    """Maps (B, S, S, C) uint8 to the mean probability (B, S, S) float32.

    Of a network in bfloat16, what counts is the mask of the mean: a slice whose mean leaves the
    mask in doubt is computed again in float32, in all 8. Such a network takes one slice at a time.
    """
    if isinstance(network, Rounded):
        fast, exactly = (
            functools.partial(_average, each) for each in (network.fast, network.exactly)
        )
        return Rounded(fast, exactly, network.threshold)(batch)
    return _average(network, batch)


def _average(network: Network, batch: np.ndarray) -> np.ndarray:
    total = np.zeros(batch.shape[:3], np.float32)
    for turns in range(4):
        for flip in (slice(None), slice(None, None, -1)):
            seen = np.ascontiguousarray(np.rot90(batch, turns, (1, 2))[:, :, flip])
            total += np.rot90(network(seen)[:, :, flip], -turns, (1, 2))
    return total / 8
