"""Surface distances: shapes with known ones, other tools, a brute-force oracle, empty masks."""

import itertools

import numpy as np
import pytest

from crlm_jax.measures import surfaces
from crlm_jax.measures.surfaces import Surfaces
from crlm_jax.measures.table import SURFACE

MRI = (7.0, 1.5, 1.5)  # mm


def measured(*images) -> dict[str, float]:
    pooled = Surfaces()
    for prediction, reference, spacing in images:
        pooled.add(prediction, reference, spacing)
    return pooled.values()


def box(shape, *edges) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*edge) for edge in edges)] = True
    return mask


def ball(radius, spacing, size=30.0) -> np.ndarray:
    """A ball of mm about a voxel, in a cube that reaches `size` mm to each side."""
    axes = [np.arange(-int(size / step), int(size / step) + 1) * step for step in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius**2


TOOLS = {
    "hd": ["medpy_hd", "monai_hd", "sitk_hausdorff", "sd_hd100"],
    "hd95": ["monai_hd95"],
    "assd": ["medpy_assd", "monai_assd"],
    "nsd_2mm": ["sd_surface_dice_2mm", "monai_surface_dice_2mm_subvoxel"],
}


@pytest.mark.parametrize("case", range(8))
def test_agrees_with_recorded_tools(fixtures, case):
    recorded = np.load(fixtures / "metrics.npz")
    shape = tuple(recorded["ref_shape"])
    voxels = np.unpackbits(recorded["ref"][case])[: np.prod(shape[1:])].reshape(shape[1:])
    prediction = recorded["prob"][case] > 0.5
    values = measured((prediction, voxels > 0, recorded["spacing"]))
    empty = [not mask.any() for mask in (prediction, voxels)]
    if not any(empty):
        for name, tools in TOOLS.items():
            for tool in tools:
                assert values[name] == pytest.approx(float(recorded[tool][case]), rel=1e-6), tool
        return
    # Where the tools raise or say inf, ours is finite; the surface Dice is theirs, if one alone is.
    assert not np.isfinite(recorded["monai_hd"][case])
    diagonal = np.linalg.norm(np.multiply(shape[1:], recorded["spacing"]))
    distance = 0.0 if all(empty) else diagonal
    assert [values[n] for n in ("hd", "hd95", "assd")] == pytest.approx([distance] * 3)
    assert values["nsd_2mm"] == values["nsd_voxel"] == float(all(empty))
    if not all(empty):
        assert values["nsd_2mm"] == recorded["sd_surface_dice_2mm"][case]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (7.0, 1.5, 1.5), (3.0, 0.7, 1.1)])
def test_concentric_balls_are_their_difference_in_radius_apart(spacing):
    inner, outer = ball(15, spacing), ball(24, spacing)
    values = measured((inner, outer, spacing))
    for name in ("hd", "hd95", "assd"):
        assert values[name] == pytest.approx(9, abs=max(spacing) / 2), name
    assert values["nsd_2mm"] == 0
    # 9 mm lie within a voxel's diagonal in no direction but the slices', if they are thick.
    assert (values["nsd_voxel"] > 0) == (max(spacing) == 7)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("steps", [1, 3])
def test_a_shifted_box_is_its_shift_away(axis, steps):
    reference = box((12, 20, 20), (4, 7), (6, 11), (6, 11))
    values = measured((np.roll(reference, steps, axis), reference, MRI))
    assert values["hd"] == pytest.approx(steps * MRI[axis])
    assert values["hd95"] == pytest.approx(steps * MRI[axis])
    assert 0 < values["assd"] < steps * MRI[axis]


def test_one_voxel_each_way_by_hand():
    """Two single voxels 3 columns apart: every distance is 4.5 mm, no piece within 2 mm.

    The eight corners of a voxel carry equal pieces. Columns of corners at 5, 6 and 8, 9: from 6
    to 8 it is 3 mm, from 5 to 8 it is 4.5 mm. A voxel's diagonal is 7.3 mm.
    """
    one, other = box((3, 12, 12), (1, 2), (5, 6), (5, 6)), box((3, 12, 12), (1, 2), (5, 6), (8, 9))
    values = measured((one, other, MRI))
    assert values == pytest.approx(
        {"hd": 4.5, "hd95": 4.5, "assd": 4.5, "nsd_2mm": 0, "nsd_voxel": 1}
    )
    # At 0.9 mm the nearer four of eight corners are 1.8 mm from the other voxel's.
    assert measured((one, other, (7, 1.5, 0.9)))["nsd_2mm"] == pytest.approx(0.5)


def test_a_distance_equal_to_the_tolerance_counts_however_it_is_rounded():
    one = box((3, 9, 40), (1, 2), (3, 6), (3, 8))
    # 0.1 · 23 − 0.1 · 3 is not 2.0 in floating point.
    assert measured((np.roll(one, 20, 2), one, (5.0, 5.0, 0.1)))["nsd_2mm"] == 1
    assert measured((np.roll(one, 21, 2), one, (5.0, 5.0, 0.1)))["nsd_2mm"] < 1
    for spacing in itertools.product((0.7, 1.1), repeat=3):
        voxel = box((9, 9, 9), (4, 5), (4, 5), (4, 5))
        shifted = np.roll(voxel, (1, 1, 1), (0, 1, 2))
        assert measured((shifted, voxel, spacing))["nsd_voxel"] == 1


def test_area_is_that_of_the_shape():
    """Marching cubes cut a box's edges and corners and leave its faces."""
    areas = surfaces._areas(np.array(MRI))
    padded = np.pad(box((8, 30, 30), (1, 6), (2, 22), (3, 28)), 1)
    faces = 2 * (5 * 7 * 20 * 1.5 + 5 * 7 * 25 * 1.5 + 20 * 1.5 * 25 * 1.5)
    area = areas[surfaces._codes(padded)].sum()
    assert area < faces
    assert area == pytest.approx(faces, rel=0.06)
    assert np.flatnonzero(areas == 0).tolist() == [0, 255]
    np.testing.assert_allclose(areas, areas[::-1])  # inside and outside share a surface
    sphere = np.pad(ball(20, (1, 1, 1)), 1)
    area = surfaces._areas(np.ones(3))[surfaces._codes(sphere)].sum()
    assert area == pytest.approx(4 * np.pi * 20**2, rel=0.1)


def brute_force(prediction, reference, spacing) -> dict[str, float]:
    """The three distances over all pairs of voxels with a face neighbour outside."""
    ends = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        steps = [(axis, way) for axis in range(3) for way in (1, -1)]
        inner = np.all([np.roll(padded, way, axis) for axis, way in steps], axis=0)
        ends.append((np.argwhere(padded & ~inner) - 1) * spacing)
    table = np.linalg.norm(ends[0][:, None] - ends[1], axis=-1)
    there, back = table.min(axis=1), table.min(axis=0)
    return {
        "hd": max(there.max(), back.max()),
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": np.concatenate([there, back]).mean(),
    }


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_brute_force_on_random_masks(monkeypatch, seed, dense):
    """By the distance transform and by the tree."""
    monkeypatch.setattr(surfaces, "_DENSE", 1e9 if dense else 0)
    rng = np.random.default_rng(seed)
    shape, spacing = rng.integers(2, 9, 3), rng.uniform(0.5, 7, 3)
    masks = rng.random((2, *shape)) < rng.uniform(0.05, 0.9, (2, 1, 1, 1))
    masks[:, 0, 0, 0] = True
    values = measured((*masks, spacing))
    assert {n: values[n] for n in ("hd", "hd95", "assd")} == pytest.approx(
        brute_force(*masks, spacing)
    )


def test_dense_and_sparse_give_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    masks = rng.random((2, 6, 20, 20)) < 0.1
    values = []
    for dense in (0, 1e9):
        monkeypatch.setattr(surfaces, "_DENSE", dense)
        values.append(measured((*masks, MRI)))
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_values_do_not_depend_on_order_orientation_or_margin():
    rng = np.random.default_rng(1)
    one, other = rng.random((2, 5, 12, 14)) < 0.3
    values = measured((one, other, MRI))
    assert set(values) == set(SURFACE)
    assert measured((other, one, MRI)) == pytest.approx(values)
    turned = [mask.transpose(2, 0, 1)[::-1] for mask in (one, other)]
    assert measured((*turned, (1.5, 7.0, 1.5))) == pytest.approx(values)
    wide = [np.pad(mask, ((2, 5), (3, 1), (0, 9))) for mask in (one, other)]
    assert measured((*wide, MRI)) == pytest.approx(values)
    assert measured((one, one, MRI)) == {
        "hd": 0, "hd95": 0, "assd": 0, "nsd_2mm": 1, "nsd_voxel": 1,
    }  # fmt: skip


def test_a_single_slice_is_measured_in_its_plane():
    """The inside of a picture is no surface, though nothing lies above it."""
    outer, inner = (box((1, 30, 30), (0, 1), *[(5 + i, 25 - i)] * 2) for i in (0, 3))
    values = measured((inner, outer, (1.0, 0.5, 0.5)))
    assert values["hd"] == pytest.approx(1.5 * np.sqrt(2))
    assert values["hd95"] == pytest.approx(np.percentile(brute_force_2d(outer, inner), 95) / 2)
    assert values["assd"] == pytest.approx(1.5, abs=0.1)
    assert (values["nsd_voxel"], values["nsd_2mm"]) == (0, pytest.approx(1, abs=0.03))
    # The thickness of a picture's slice has no meaning and no effect.
    assert measured((inner, outer, (9.0, 0.5, 0.5))) == pytest.approx(values)
    empty = np.zeros_like(outer)
    assert measured((empty, outer, (9.0, 0.5, 0.5)))["hd"] == pytest.approx(15 * np.sqrt(2))


def brute_force_2d(ours, theirs) -> np.ndarray:
    ends = []
    for mask in (ours[0], theirs[0]):
        inner = np.zeros_like(mask)
        inner[1:-1, 1:-1] = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        ends.append(np.argwhere(mask & ~inner))
    return np.linalg.norm(ends[0][:, None] - ends[1], axis=-1).min(axis=1)


def test_images_are_pooled_by_their_voxels():
    small = box((6, 20, 20), (2, 3), (5, 6), (5, 6))  # 1 surface voxel
    large = box((6, 20, 20), (2, 3), (5, 9), (5, 9))  # 16 surface voxels
    first, second = (np.roll(small, 4, 2), small, MRI), (large, large, (5.0, 1.0, 1.0))
    values = measured(first, second)
    assert values == pytest.approx(measured(second, first))
    assert values["hd"] == 6
    assert values["hd95"] == pytest.approx(np.percentile([6] + [0] * 16, 95))
    assert values["assd"] == pytest.approx((2 * 6) / 34)
    assert measured(first)["nsd_2mm"] < values["nsd_2mm"] < 1
    assert measured(second, second) == pytest.approx(measured(second))


def test_an_image_with_one_empty_mask_counts_with_its_diagonal():
    mask = box((6, 20, 20), (2, 3), (5, 9), (5, 9))
    empty = np.zeros_like(mask)
    diagonal = np.linalg.norm((6 * 7, 20 * 1.5, 20 * 1.5))
    # 16 voxels of one surface alone, beside 16 + 16 that agree.
    for alone in ((mask, empty, MRI), (empty, mask, MRI)):
        values = measured((mask, mask, MRI), alone)
        assert values["hd"] == values["hd95"] == pytest.approx(diagonal)
        assert values["assd"] == pytest.approx(diagonal / 3)
        assert values["nsd_2mm"] == values["nsd_voxel"] == pytest.approx(2 / 3)
    # Nothing in either mask of an image: as if it were not there.
    assert measured((empty, empty, MRI), (mask, mask, MRI))["assd"] == 0
    # The prediction in one image, the reference in the other: nothing agrees.
    values = measured((mask, empty, MRI), (empty, mask, MRI))
    assert values == pytest.approx(
        {"hd": diagonal, "hd95": diagonal, "assd": diagonal, "nsd_2mm": 0, "nsd_voxel": 0}
    )


@pytest.mark.parametrize("images", [0, 1, 2])
def test_nothing_anywhere_agrees(images):
    empty = np.zeros((2, 4, 4), bool)
    assert measured(*[(empty, empty, MRI)] * images) == {
        "hd": 0, "hd95": 0, "assd": 0, "nsd_2mm": 1, "nsd_voxel": 1,
    }  # fmt: skip


def test_no_distance_reaches_the_field_of_view():
    """The stand-in for an empty mask is the worst case, even of opposite corners."""
    one, other = box((4, 9, 9), (0, 1), (0, 1), (0, 1)), box((4, 9, 9), (3, 4), (8, 9), (8, 9))
    worst = measured((one, np.zeros_like(one), MRI))["hd"]
    assert measured((one, other, MRI))["hd"] < worst
