"""Regions: parts of a mask that were drawn apart (a segment, a label, a file), which may overlap.

A region holds a box of its grid and which voxels of the box belong to it, so that many small ones
need little memory.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.imaging.lesions import Lesion, label_lesions, measure_lesions

APART = 10.0  # mm between parts of one region: what is farther is hardly one lesion

Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """Voxels (Z, H, W) of a grid that belong together."""

    box: Box
    inside: np.ndarray  # bool, of the box's size; empty if the region has no voxel
    name: str = ""  # for messages: a segment, a label or a file

    @classmethod
    def of(cls, mask: np.ndarray, name: str = "") -> "Region":
        """Takes the region of a mask (Z, H, W) bool."""
        found = ndimage.find_objects(mask.view(np.uint8), max_label=1)
        if not found or found[0] is None:
            return cls((slice(0, 0),) * 3, np.zeros((0, 0, 0), bool), name)
        return cls(found[0], mask[found[0]].copy(), name)

    @classmethod
    def at(cls, places: np.ndarray, name: str = "") -> "Region":
        """Takes the region of voxels by their indices (N, 3): slice, row, column."""
        if not len(places):
            return cls((slice(0, 0),) * 3, np.zeros((0, 0, 0), bool), name)
        low = places.min(axis=0)
        inside = np.zeros(places.max(axis=0) - low + 1, bool)
        inside[tuple((places - low).T)] = True
        box = tuple(slice(a, a + n) for a, n in zip(low.tolist(), inside.shape, strict=True))
        return cls(box, inside, name)

    @property
    def start(self) -> np.ndarray:
        """Index of the first voxel of the box: (3,)."""
        return np.array([edge.start for edge in self.box])

    @property
    def first(self) -> tuple[int, ...]:
        """Index (slice, row, column) of the first voxel; () if there is none."""
        if not self.inside.any():
            return ()
        at = np.unravel_index(int(self.inside.argmax()), self.inside.shape)
        return tuple((np.array(at) + self.start).tolist())

    def to_axial(self, geometry: Geometry) -> "Region":
        """Turns the region from the file's own order into axial slices, as `Geometry.to_axial`."""
        axes, flips = geometry.turn
        size = (1, *geometry.size[::-1])[-3:]
        box = [self.box[axis] for axis in axes]
        for axis in flips:
            whole = size[axes[axis]]
            box[axis] = slice(whole - box[axis].stop, whole - box[axis].start)
        return Region(tuple(box), geometry.to_axial(self.inside), self.name)


def fill(regions: Iterable[Region], shape: Sequence[int]) -> np.ndarray:
    """Returns the voxels (Z, H, W) bool that lie in any region."""
    mask = np.zeros(shape, bool)
    for region in regions:
        mask[region.box] |= region.inside
    return mask


def split(labels: np.ndarray) -> list[Region]:
    """Takes the region of every number of a label map (Z, H, W) with labels 0 and 1 … n."""
    boxes = enumerate(ndimage.find_objects(labels), start=1)
    return [Region(box, labels[box] == number) for number, box in boxes if box is not None]


def components(region: Region) -> list[Region]:
    """Takes the connected parts of a region, whose voxels share at least a corner."""
    if not region.inside.size:
        return []
    first = region.start
    return [
        Region(
            tuple(slice(e.start + a, e.stop + a) for e, a in zip(part.box, first, strict=True)),
            part.inside,
            region.name,
        )
        for part in split(label_lesions(region.inside)[0])
    ]


def number(
    regions: Sequence[Region], shape: Sequence[int], doubts: list[str]
) -> tuple[np.ndarray, list[Region]]:
    """Numbers the regions as lesions.

    A voxel of several regions counts for the one with fewest voxels, so that a small lesion within
    a larger outline is not lost. A region without a voxel of its own is no lesion: the same lesion
    drawn twice, or an outline of several that are drawn too.

    Args:
      regions: as they were drawn; empty ones have no number.
      shape: of the grid, (Z, H, W).
      doubts: receives what the user should know, a sentence each.

    Returns:
      Labels (Z, H, W) int32, 0 and 1 … n, and the n regions, whole.
    """
    regions = [region for region in regions if region.inside.any()]
    labels = np.zeros(shape, np.int32)
    # The smallest is painted last; of two equal ones the first is kept.
    for i in sorted(range(len(regions)), key=lambda i: (-int(regions[i].inside.sum()), -i)):
        labels[regions[i].box][regions[i].inside] = i + 1
    own = np.bincount(labels.ravel(), minlength=len(regions) + 1)[1:]
    kept = [i for i in range(len(regions)) if own[i]]
    for i in sorted(set(range(len(regions))) - set(kept)):
        doubts.append(
            f"{regions[i].name} lies wholly within others that were drawn; it is no lesion of its "
            "own"
        )
    shared = sum(int(regions[i].inside.sum()) for i in kept) - int(np.count_nonzero(labels))
    if shared:
        doubts.append(
            f"lesions overlap in {shared:,} voxels, which are measured in each of them; see that "
            "no lesion was drawn twice"
        )
    numbers = np.zeros(len(regions) + 1, np.int32)
    numbers[[i + 1 for i in kept]] = np.arange(1, len(kept) + 1)
    return numbers[labels], [regions[i] for i in kept]


def scattered(regions: Iterable[Region], geometry: Geometry) -> list[str]:
    """Returns a sentence for every region whose parts lie farther than `APART` from each other."""
    said = []
    spacing = np.array(geometry.axial_spacing)
    for region in regions:
        if len(components(region)) < 2:
            continue
        # Parts that are at most `APART` from each other touch if each grows by half of it.
        margin = [(int(n), int(n)) for n in np.ceil(APART / 2 / spacing)]
        grown = ndimage.distance_transform_edt(~np.pad(region.inside, margin), sampling=spacing)
        count = label_lesions(grown <= APART / 2)[1]
        if count > 1:
            said.append(
                f"{region.name} is drawn in {count} parts more than {APART:g} mm apart; counted as "
                "one lesion, as drawn: draw them apart if they are several"
            )
    return said


def empty(regions: Iterable[Region]) -> list[str]:
    """Returns a sentence for every region that was chosen by its name, but holds nothing."""
    return [
        f"{region.name} holds no voxel, so that it counts as no tumour; see that it was drawn and "
        "saved, or choose another"
        for region in regions
        if not region.inside.any()
    ]


def everywhere(mask: np.ndarray, *, cropped: bool, what: str = "tumour") -> list[str]:
    """Returns a sentence if a mask (Z, H, W) bool is hardly one, as when black and white changed.

    A mask that may be cropped to its content reaches the borders anyhow, but hardly the corners,
    and so does a large organ in an image of little else. `what` it is of is for the sentence.
    """
    if min(mask.shape[1:]) < 3:
        return []
    reached = [mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]]
    if cropped:
        reached = [mask[:, y, x, None] for y in (0, -1) for x in (0, -1)]
    edges = np.all([line.any(axis=1) for line in reached], axis=0)
    share = float(mask.mean())
    if not edges.any() and (cropped or share <= 0.5):
        return []
    return [
        f"it marks {share:.0%} of all voxels, or reaches every border of a slice, as no {what} "
        f"does; see that {what} and background are not exchanged"
    ]


def measure_regions(regions: Iterable[Region], geometry: Geometry) -> list[Lesion]:
    """Measures regions of the axial slices, whole, also where they overlap."""
    found = []
    for region in regions:
        (lesion,) = measure_lesions(region.inside.astype(np.int32), geometry, region.box)
        found.append(lesion)
    return found
