"""Lesions as balls of points, for tests of what lies where."""

import numpy as np

from crlm_jax.recist.matching import Body


def ball(length: float, *centre: float) -> Body:
    """A ball of `length` mm around a centre (L, P, S) in mm."""
    step = length / 24
    places = (np.indices((24, 24, 24)).reshape(3, -1).T - 11.5) * step
    inside = np.linalg.norm(places, axis=1) <= length / 2
    return Body(places[inside] + np.array(centre), step**3)
