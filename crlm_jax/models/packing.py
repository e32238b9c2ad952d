"""Maps packed two by two: (B, H, W, C) held as (B, H/2, W/2, 4C), and what is computed on them.

A TPU holds the channels of a map in lanes of 128, so that a map of 32 channels takes four times its
room and its time. Packed, each place holds a square of 2 × 2 pixels: channel (2·dy + dx)·C + c is
channel c of the pixel at row dy, column dx of the square. The weights stay as they are; only while
a step is traced is a kernel laid out for packed maps, mostly with the same weights, and with zeros:

- A 3×3 convolution is one of 2×2 squares, if its result lies one pixel to the upper left of its
  map: `SHIFTED` squares have a pixel of four squares each. The next convolution leads back.
- A 7×7 convolution with stride 2 is one of 4×4 squares, whose result is not packed.
- Pooling by 2 is the maximum over the four groups of channels.
- Up-sampling by 2 gives the four groups (`crlm_jax.models.resampling.upsample`).
"""

import enum

import jax
import jax.numpy as jnp
import numpy as np


class Layout(enum.Enum):
    """How a map is held."""

    PIXELS = "(B, H, W, C)"
    SQUARES = "(B, H/2, W/2, 4C)"
    # The first square holds the pixels at −1 and 0, so that pixels around the map are held too.
    # They are 0 where a convolution reads them.
    SHIFTED = "(B, H/2 + 1, W/2 + 1, 4C)"

    @property
    def pixels(self) -> int:
        """Pixels at a place."""
        return 1 if self is Layout.PIXELS else 4

    def after(self, size: int, stride: int) -> "Layout":
        """Layout of the result of a convolution, by the side of its kernel."""
        if self is Layout.PIXELS or size == 1:
            return self
        if stride == 2:
            return Layout.PIXELS
        return Layout.SHIFTED if self is Layout.SQUARES else Layout.SQUARES


def pack(x: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, H/2, W/2, 4C); H and W are even."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, -1)


def unpack(x: jax.Array) -> jax.Array:
    """(B, H/2, W/2, 4C) -> (B, H, W, C)."""
    batch, height, width, channels = x.shape
    pixels = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, 2 * height, 2 * width, -1)


def packable(*modules: object) -> bool:
    """Whether all modules take a packed image."""
    return all(getattr(module, "TAKES_PACKED", False) for module in modules)


def layout_of(x: jax.Array, channels: int) -> Layout:
    """How an image of `channels` channels is held: `PIXELS`, or packed as `SQUARES`."""
    return Layout.SQUARES if x.shape[-1] == 4 * channels else Layout.PIXELS


def groups(x: jax.Array) -> list[jax.Array]:
    """The four pixels of the squares: upper left, upper right, lower left, lower right."""
    return jnp.split(x, 4, axis=-1)


def inside(x: jax.Array) -> jax.Array:
    """Which pixels of a shifted map lie in it: (H/2 + 1, W/2 + 1, 4C) of x, bool."""
    sides = []
    for axis, odd in ((1, (0, 0, 1, 1)), (2, (0, 1, 0, 1))):  # of the four pixels of a square
        place = 2 * np.arange(x.shape[axis])[:, None] - 1 + np.array(odd)
        within = (place >= 0) & (place < 2 * (x.shape[axis] - 1))
        sides.append(np.repeat(within, x.shape[-1] // 4, 1))
    return jnp.asarray(sides[0])[:, None] & jnp.asarray(sides[1])[None]


def kernel(weight: jax.Array) -> jax.Array:
    """Lays out a kernel with stride 1 for packed maps.

    A side of 1 gives (1, 1, 4I, 4O). A side of 3 gives (2, 2, 4I, 4O): the pixel at row dy of a
    shifted square is at row dy − 1 of the square below it, and sees dy − 2 to dy there; so by row k
    of the kernel it sees row dy + k of the two squares around.
    """
    places = [(0, 1), (1, 0)]
    shifted = jnp.stack(
        [jnp.pad(weight, (row, column, (0, 0), (0, 0))) for row in places for column in places], -2
    )  # rows, columns, I, 4, O
    return _by_squares(shifted.reshape(*shifted.shape[:3], -1))


def halving_kernel(weight: jax.Array) -> jax.Array:
    """Lays out a kernel (7, 7, I, O) with stride 2 for packed maps: (4, 4, 4I, O), with stride 1.

    Row k of the kernel sees row k − 3 of the square, which is row k + 1 of the squares from two
    before to one after.
    """
    return _by_squares(jnp.pad(weight, ((1, 0), (1, 0), (0, 0), (0, 0))))


def _by_squares(weight: jax.Array) -> jax.Array:
    """(2h, 2w, I, O) -> (h, w, 4I, O)."""
    rows, columns, inputs, outputs = weight.shape
    squares = weight.reshape(rows // 2, 2, columns // 2, 2, inputs, outputs)
    return squares.transpose(0, 2, 1, 3, 4, 5).reshape(rows // 2, columns // 2, -1, outputs)
