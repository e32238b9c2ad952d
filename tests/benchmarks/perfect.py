"""The DSC of a perfect network: the reference at its size, and back at the image's own.

    python -m tests.benchmarks.perfect

On every fourth of 24 phantom patients (seed 0), by condition, with `data.antialias` and without.
"""

from collections import defaultdict

import numpy as np

from crlm_jax.data.cohort.rows import read_rows
from crlm_jax.data.phantom.cohort import cached_phantom
from crlm_jax.imaging.masks import read_mask
from crlm_jax.imaging.resize import resize, resize_mask
from crlm_jax.imaging.volumes import read_image


def main() -> None:
    # Version 1: the table in the docs is of it.
    rows, _ = read_rows(cached_phantom("~/.cache/crlm_jax", 24, 0, version=1))
    scores: dict[tuple[str, int, bool], list[float]] = defaultdict(list)
    for row in rows:
        if int(row.patient[-3:]) % 4:
            continue
        volume = read_image(row.image)
        mask = read_mask(row.masks, None, volume)
        for size in (112, 224):
            for antialias in (False, True):
                small, _ = resize_mask(mask, size, antialias=antialias)
                back = resize(small.astype(np.float32), mask.shape[1:], antialias=False) > 0.5
                dsc = 2 * (back & mask).sum() / (back.sum() + mask.sum())
                scores[row.condition, size, antialias].append(float(dsc))
    print("condition | pixels | as in 0.1.0: mean, least | averaged: mean, least")
    for condition, size, antialias in scores:
        if not antialias:
            cells = (scores[condition, size, how] for how in (False, True))
            shown = " | ".join(f"{np.mean(x):.3f}, {min(x):.3f}" for x in cells)
            print(f"{condition} | {size} | {shown}")


if __name__ == "__main__":
    main()
