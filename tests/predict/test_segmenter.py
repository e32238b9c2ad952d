"""A segmenter as a function of a scan: the mask lies on the scan's own physical points."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.storage import to_json
from crlm_jax.imaging import volumes
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.segment import load_best
from crlm_jax.method.step import create_state
from crlm_jax.predict.engine.doubt import Rounded
from crlm_jax.predict.segmenter import ScanSegmenter, load
from crlm_jax.system import parallel
from crlm_jax.training.loop import segmenter_part
from tests.cohorts import tiny_config


def identity(size: int = 32, conditions=("ct",), **options) -> ScanSegmenter:
    """A segmenter whose probability is the grey level: its mask is a threshold of the image."""
    config = Config()
    config.data.image_size, config.data.conditions = size, conditions
    about = {"tta": False, "threshold": 0.5, "min_lesion_mm3": 0.0, "batch": 8} | options
    about.setdefault("network", lambda batch: batch[..., 0].astype(np.float32) / 255)
    return ScanSegmenter(config, "identity", 7, "f" * 64, **about)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A run directory with a checkpoint of untrained weights."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_config(run / "no cohort is needed", run.parent / "cache")
    _, state = create_state(config, parallel.make_mesh(1))
    run.mkdir()
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(3, segmenter_part(state), None)
    return run


def ball(shape=(12, 32, 32), spacing=(1.0, 1.2, 3.0), origin=(5.0, -60.0, 900.0), direction=None):
    """A scan, in the order of its file, with a bright ellipsoid off its middle."""
    k, j, i = np.indices(shape)
    inside = ((k - 4) / 3) ** 2 + ((j - 20) / 6) ** 2 + ((i - 9) / 5) ** 2 <= 1
    image = sitk.GetImageFromArray(np.where(inside, 200, -100).astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.ravel(np.eye(3) if direction is None else direction).tolist())
    return image, inside


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ np.array(
        [[1.0, 0, 0], [0, c, -s], [0, s, c]]
    )


DIRECTIONS = [
    np.eye(3)[list(axes)] * signs
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = [rotation(17) @ direction for direction in DIRECTIONS[::5]]


@pytest.mark.parametrize("direction", DIRECTIONS + OBLIQUE)
def test_the_mask_lies_on_the_same_physical_points(direction):
    # A cube, since any axis may be the axial one and the two others have the network's size.
    image, inside = ball(shape=(32, 32, 32), direction=direction)
    mask = identity()(image)
    for about in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, about)() == getattr(image, about)()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask) > 0, inside)
    assert mask.GetPixelID() == sitk.sitkUInt8


def test_a_resampled_mask_lies_on_the_anatomy():
    image, _ = ball(shape=(12, 96, 80))
    inside = sitk.GetArrayFromImage(image) > 0
    mask = sitk.GetArrayFromImage(identity(size=64)(image)) > 0
    both = np.argwhere(mask).mean(axis=0), np.argwhere(inside).mean(axis=0)
    np.testing.assert_allclose(*both, atol=0.2)  # voxels: no shift, only rounder borders
    assert 2 * (mask & inside).sum() / (mask.sum() + inside.sum()) > 0.85


def test_a_single_slice():
    image = sitk.GetImageFromArray((np.indices((20, 30))[1] > 14).astype(np.uint8) * 200)
    mask = identity()(image)
    assert mask.GetSize() == (30, 20)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(mask) > 0, sitk.GetArrayFromImage(image) > 0
    )


def test_tta_undoes_what_it_does():
    image, _ = ball(shape=(4, 32, 32))
    segmenter = identity()
    volume = volumes.from_image(image)
    slices = segmenter.look([volume]).slices
    plain, averaged = (identity(tta=tta).probability(slices) for tta in (False, True))
    np.testing.assert_allclose(averaged, plain, atol=1e-6)


def test_tta_averages_the_eight_flips_and_turns():
    seen = []
    network = lambda batch: seen.append(batch[0, ..., 0]) or batch[..., 0].astype("f4")  # noqa: E731
    segmenter = ScanSegmenter(
        Config(), "n", 0, "", tta=True, threshold=0.5, min_lesion_mm3=0, batch=8, network=network
    )
    picture = np.random.default_rng(0).integers(0, 255, (1, 6, 6, 1), dtype=np.uint8)
    segmenter.probability(picture)
    square = picture[0, ..., 0]
    expected = [np.rot90(p, k) for p in (square, square.T) for k in range(4)]
    assert {s.tobytes() for s in seen} == {np.ascontiguousarray(e).tobytes() for e in expected}
    assert len(seen) == 8


def test_what_the_mean_of_the_turns_leaves_in_doubt_is_computed_again():
    """In bfloat16: each flip and turn is sure of itself, but their mean is not."""
    calls = []

    def by(name, error, low):
        def network(batch):  # the lesion is seen where the mark lies at the upper edge
            calls.append(name)
            seen = batch[..., 0]
            above = (seen[:, :8] == 50).any(axis=(1, 2), keepdims=True)
            return np.where(seen == 200, np.where(above, 0.9, low) - error, 0).astype(np.float32)

        return network

    slices = np.zeros((2, 32, 32, 1), np.uint8)
    slices[:, 13:19, 13:19], slices[:, 1, 1] = 200, 50
    for low, again in ((0.12, True), (0.3, False)):  # the mean in float32 is 0.51, or 0.6
        exact, fast = by("exact", 0, low), by("fast", 0.02, low)
        network = Rounded(fast, exact, 0.5)
        found = identity(tta=True, batch=1, network=network).probability(slices)
        assert calls.count("fast") == 16
        assert calls.count("exact") == 16 * again
        right = identity(tta=True, batch=1, network=exact if again else fast).probability(slices)
        np.testing.assert_array_equal(found, right)
        assert ((found > 0.5) == (slices[..., 0] == 200)).all()
        calls.clear()


@pytest.mark.parametrize("slices", [1, 8, 11])
def test_any_number_of_slices_goes_through_one_program(slices):
    shapes = set()
    network = lambda batch: shapes.add(batch.shape) or batch[..., 0] / np.float32(255)  # noqa: E731
    segmenter = ScanSegmenter(
        Config(), "n", 0, "", tta=False, threshold=0.5, min_lesion_mm3=0, batch=8, network=network
    )
    picture = np.random.default_rng(0).integers(0, 255, (slices, 6, 6, 1), dtype=np.uint8)
    told = []
    out = segmenter.probability(picture, told.append)
    np.testing.assert_array_equal(out, picture[..., 0] / np.float32(255))
    assert len(shapes) == 1
    assert sum(told) == slices


def test_small_lesions_are_dropped():
    image, _ = ball()
    array = sitk.GetArrayFromImage(image)
    array[10, 2, 2] = 200  # one voxel, 3.6 mm³
    speck = sitk.GetImageFromArray(array)
    speck.CopyInformation(image)
    counts = [
        sitk.GetArrayFromImage(identity(min_lesion_mm3=least)(speck))[10].sum() for least in (0, 4)
    ]
    assert counts == [1, 0]


def test_conditions_that_are_windowed_differently_must_be_named():
    both = identity(conditions=("ct", "pre_dwi"))
    with pytest.raises(ConfigError, match=r"ct, pre_dwi.*--condition"):
        both(ball()[0])
    assert sitk.GetArrayFromImage(both(ball()[0], "ct")).any()
    assert identity(conditions=("pre_dwi", "pre_t2wi")).windowed_as(None) == "pre_dwi"


def test_load_gives_the_runs_network(tiny_run):
    before = sorted(tiny_run.rglob("*"))
    segmenter = load(tiny_run)
    config = segmenter.config
    trained = load_best(config, tiny_run / "checkpoints", parallel.make_mesh(1))
    assert (segmenter.step, trained.step, segmenter.name) == (3, 3, "tiny")
    batch = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 1), dtype=np.uint8)
    np.testing.assert_allclose(segmenter.probability(batch), trained.probability(batch), atol=1e-6)
    assert segmenter.threshold == config.evaluation.threshold
    assert sorted(tiny_run.rglob("*")) == before
    assert load(tiny_run).fingerprint == segmenter.fingerprint
    (tiny_run / "config.json").write_text(
        to_json(config).replace('"threshold": 0.5', '"threshold": 0.25')
    )
    assert load(tiny_run).fingerprint != segmenter.fingerprint
    (tiny_run / "config.json").write_text(to_json(config))


def test_a_folder_without_a_run_or_a_checkpoint_is_refused_and_left_alone(tmp_path):
    with pytest.raises(ConfigError, match=r"no run is here.*config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(to_json(Config()))
    with pytest.raises(FileNotFoundError, match="no complete checkpoint; train"):
        load(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
