"""The form in which a platform computes an operation: what is fast differs, what is computed not.

`FORMS` is the one place where a platform's forms are chosen. The step asks for them when it is
traced, with `using`; all else (prediction on a CPU, export, a test) has the plain forms. Weights
and checkpoints do not know which forms were used.

A TPU computes on 128 channels at once. So the finest level of a UNet, whose maps have 32, is
*packed* there: see `crlm_jax.models.packing`.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Forms:
    """One form for every operation that has several; the defaults are the plain ones."""

    packed: bool = False  # the finest level of UNet and UNet++, and what the loss makes of it
    # Maxima of strided slices, or XLA's windows, whose gradient is slow on a CPU.
    pooling: Literal["slices", "windows"] = "slices"
    # Blends of neighbours, or products with matrices of the weights.
    upsampling: Literal["blends", "products"] = "blends"
    # Several maps that are convolved together: side by side in the channels, or each by its part of
    # the kernel, and summed.
    inputs: Literal["joined", "summed"] = "joined"
    # Variance of a batch: about its mean, which is known first; or about the running mean, in one
    # pass with the mean.
    statistics: Literal["two_passes", "one_pass"] = "two_passes"
    # Whether a bias that batch norm subtracts again gets its gradient, which is rounding alone.
    cancelled_gradient: bool = True


PLAIN = Forms()
FORMS = {
    "cpu": PLAIN,
    "gpu": Forms(statistics="one_pass", cancelled_gradient=False),
    "tpu": Forms(
        packed=True,
        pooling="windows",
        upsampling="products",
        inputs="summed",
        statistics="one_pass",
        cancelled_gradient=False,
    ),
}

_current: contextvars.ContextVar[Forms] = contextvars.ContextVar("forms", default=PLAIN)


def current() -> Forms:
    """Returns the forms that are being traced."""
    return _current.get()


@contextlib.contextmanager
def using(forms: Forms) -> Iterator[None]:
    """Traces with these forms what is inside.

    Example:
      >>> with using(FORMS["tpu"]):
      ...     current().packed
      True
    """
    token = _current.set(forms)
    try:
        yield
    finally:
        _current.reset(token)


def of_platform(platform: str) -> Forms:
    """Returns the forms of a JAX platform ("cpu", "gpu", "tpu" …); of an unknown one, the plain."""
    return FORMS.get(platform, PLAIN)
