"""The picture of how the sequences lie over each other that a network sees together."""

from collections.abc import Iterator

import numpy as np

from crlm_jax.config.notices import marks
from crlm_jax.config.schema import Config
from crlm_jax.data.cohort.cases import SPLITS, Split
from crlm_jax.data.slices import Slices
from crlm_jax.imaging.channels import MOTION
from crlm_jax.runs.folder import RunFolder
from crlm_jax.system.files import write_whole

MOST = 8  # patients that are shown
FIELDS = 8  # of the chequerboard, along a side


def chequered(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Shows two images (S, S) in turn, in fields like those of a chequerboard."""
    row, column = np.indices(first.shape) * FIELDS // first.shape[0]
    return np.where((row + column) % 2 == 0, first, second)


def write_fit(config: Config, slices: Slices, folder: RunFolder) -> None:
    """Writes `RunFolder.channels`: some patients, with the outline of the tumour in each sequence.

    Of each patient it shows the slice with most tumour. Where the borders of organs break from
    field to field, the sequences do not fit.

    Args:
      config: with `data.channels`.
      slices: of the cohort.
      folder: of the run.
    """
    from matplotlib.figure import Figure  # here: a training needs no matplotlib until its end

    from crlm_jax.imaging import overlay

    names = config.data.channels
    shown = list(_largest(slices))
    columns = [*names, *(f"{names[0]} and {other}, in turn" for other in names[1:])]
    size = (3 * len(columns), 3.3 * len(shown) + 0.6)
    figure = Figure(figsize=size, layout="constrained", facecolor="#111")
    grid = figure.subplots(len(shown), len(columns), squeeze=False)
    for axes, (title, image, mask) in zip(grid, shown, strict=True):
        images = [image[..., channel] for channel in range(len(names))]
        images += [chequered(images[0], other) for other in images[1:]]
        extent = (0.0, float(mask.shape[1]), float(mask.shape[0]), 0.0)
        for place, picture, name in zip(axes, images, columns, strict=True):
            place.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=extent)
            overlay.contour(place, mask, extent, overlay.REFERENCE)
            place.set_title(f"{title}\n{name}", color="w", fontsize=8)
            place.set_axis_off()
    about = "\n".join([*marks(config), MOTION.replace("; ", ";\n")])
    figure.suptitle(about, color="w", fontsize=9)
    write_whole(folder.channels, overlay.to_png(figure))


def _largest(slices: Slices) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields title, image (S, S, 3) and mask (S, S) bool of some cases, from every split."""
    queues = [_of_split(slices, split) for split in SPLITS]
    yielded = 0
    while queues and yielded < MOST:
        for queue in list(queues):
            found = next(queue, None)
            if found is None:
                queues.remove(queue)
            elif yielded < MOST:
                yielded += 1
                yield found


def _of_split(slices: Slices, split: Split) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    index, source = slices.index(split), slices.source(split)
    for number in np.unique(index["case"]).tolist():
        records = np.flatnonzero(index["case"] == number).tolist()
        largest = max(records, key=lambda record: int(source[record][1].sum()))
        image, mask = source[largest]
        case = slices.cases[number]
        yield f"{case.patient} ({split}), slice {index['z'][largest] + 1}", image, mask[..., 0] > 0
