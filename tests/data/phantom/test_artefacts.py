"""Scanner artefacts of the phantom's version 2: each does what physics says, and where."""

import dataclasses

import numpy as np
import pytest

from crlm_jax.data.phantom import artefacts
from crlm_jax.data.phantom.anatomy import Tissue, grid_axes
from crlm_jax.data.phantom.scanner import DWI

AXES = [np.arange(-90, 90, 6.0), np.arange(-190, 190, 4.0), np.arange(-190, 190, 4.0)]
SHAPE = tuple(len(axis) for axis in AXES)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_voxels_move_along_y_by_whole_and_part_pixels():
    volume = np.zeros((2, 9, 3), np.float32)
    volume[:, 4] = 1.0
    moved = artefacts.shift_along_y(volume, np.array([2.0, -0.25])[:, None, None])
    assert np.flatnonzero(moved[0, :, 0]).tolist() == [6]
    assert moved[1, 3:5, 0] == pytest.approx([0.25, 0.75])


def test_the_epi_ghost_lies_half_a_field_of_view_away():
    volume = np.zeros(SHAPE, np.float32)
    volume[:, 20] = 100.0
    ghost = artefacts.add_epi_ghost(draw(), volume)[:, 20 + SHAPE[1] // 2]
    assert ((ghost >= 2) & (ghost <= 8)).all()
    assert np.ptp(ghost) < 1e-4
    elsewhere = np.delete(artefacts.add_epi_ghost(draw(), volume), [20, 20 + SHAPE[1] // 2], 1)
    assert not elsewhere.any()


def test_fat_lies_some_pixels_away():
    assert artefacts.fat_pixels(DWI) == pytest.approx(3.4 * 63.87 * 90 * 0.25e-3 * 128 / 90)


def test_gas_displaces_as_a_dipole_does():
    """Outside a ball of radius a the field is χ/3 (a/r)³ (3 cos² θ − 1), with B0 along z."""
    z, y, x = np.meshgrid(*grid_axes(), indexing="ij")
    labels = np.full(z.shape, Tissue.LIVER, np.uint8)
    radius = 25.0
    labels[(z**2 + y**2 + x**2) < radius**2] = Tissue.GAS
    axes = [np.array([-40.0, 0.0, 40.0]), np.array([0.0, 40.0]), np.array([0.0, 40.0])]
    pixels = artefacts.distortion(labels, DWI, grid_axes(), axes)
    unit = artefacts.HERTZ * artefacts.READOUT * DWI.matrix
    expected = unit * artefacts.AIR_PPM / 3 * (radius / 40) ** 3
    assert pixels[0, 0, 0] == pytest.approx(2 * expected, rel=0.25)  # above and below
    assert pixels[2, 0, 0] == pytest.approx(2 * expected, rel=0.25)
    assert pixels[1, 1, 0] == pytest.approx(-expected, rel=0.35)  # beside


def test_a_body_without_gas_is_not_distorted():
    labels = np.full([len(axis) for axis in grid_axes()], Tissue.LIVER, np.uint8)
    pixels = artefacts.distortion(labels, DWI, grid_axes(), AXES)
    assert np.abs(pixels).max() < 1e-3


def test_distortion_keeps_the_signal():
    rows = np.arange(64, dtype=np.float32)
    volume = np.exp(-0.5 * ((rows - 30) / 6) ** 2)[None, :, None].astype(np.float32)
    pixels = 3 * np.exp(-0.5 * ((rows - 30) / 15) ** 2)[None, :, None].astype(np.float32)
    moved = artefacts.distort(volume, pixels)
    assert moved.argmax() == pytest.approx(33, abs=1)
    assert moved.sum() == pytest.approx(volume.sum(), rel=0.03)


def test_the_heart_takes_more_from_the_left_lobe():
    kept = artefacts.lose_to_heart(draw(), np.ones(SHAPE, np.float32), AXES)
    z = np.abs(AXES[0] - 50).argmin()
    near = kept[z - 2 : z + 3, np.abs(AXES[1] + 45).argmin(), np.abs(AXES[2] - 10).argmin()]
    far = kept[z - 2 : z + 3, np.abs(AXES[1] - 30).argmin(), np.abs(AXES[2] + 90).argmin()]
    assert 0.2 < 1 - near.mean() < 0.8
    assert 1 - far.mean() < 0.1
    assert np.ptp(near) > 0.1  # from slice to slice


def test_slices_lie_out_of_register_more_in_a_restless_patient():
    calm, restless = (
        np.std([artefacts.slice_motion(draw(s), 28, r)[:, 0] for s in range(20)]) for r in (0.5, 2)
    )
    assert 0.2 < calm < restless < 6


def test_breathing_ghosts_are_faint_copies_of_the_front():
    front, back = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    front[:, 20], back[:, 75] = 100.0, 100.0
    for volume, copies in ((front, True), (back, False)):
        more = artefacts.add_breathing_ghosts(draw(), volume, AXES, 1.0) - volume
        assert (np.abs(more).max() > 1.0) == copies
        assert np.abs(more).max() < 12.0


def test_flow_ghosts_stay_in_the_vessels_columns():
    vessel = np.zeros(SHAPE, np.float32)
    vessel[:, 40:44, 50:54] = 1.0
    volume = np.full(SHAPE, 1.0, np.float32)
    changed = artefacts.add_flow_ghosts(draw(), volume, vessel, 0.05) != volume
    assert changed.any((0, 1)).nonzero()[0].tolist() == [50, 51, 52, 53]
    assert not changed[:, 40:44].any()
    assert artefacts.add_flow_ghosts(draw(), volume, 0 * vessel, 0.05) is volume


def test_a_scanner_with_another_matrix_displaces_fat_by_as_much_of_its_image():
    fine = dataclasses.replace(DWI, matrix=256)
    assert artefacts.fat_pixels(fine) == 2 * artefacts.fat_pixels(DWI)
