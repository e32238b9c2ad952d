"""Cases to ArrayRecord: what the records hold, when they are made anew, and what is refused."""

import dataclasses
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tensorflow_datasets as tfds

from crlm_jax.config.schema import Data
from crlm_jax.data import slice_builder
from crlm_jax.data.cohort.cases import Case, read_cohort
from crlm_jax.data.cohort.rows import CohortError, ImagePair
from crlm_jax.data.slice_cache import prepare
from crlm_jax.data.slices import Slices
from crlm_jax.imaging import masks, volumes
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.imaging.headers import data_files
from crlm_jax.imaging.resize import resize, resize_mask
from tests.imaging.dicom import dicoms

SIZE = 32


def make_pair(folder: Path, name: str, row: int, *, depth: int = 6, tumour: int = 3) -> ImagePair:
    """Writes an image of `depth` slices, the first `tumour` of which hold tumour."""
    rng = np.random.default_rng(row)
    image = rng.integers(0, 900, (depth, 20, 16)).astype(np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[:tumour, 5:12, 4:10] = 2
    paths = folder / f"{name}.nii.gz", folder / f"{name}_mask.nii.gz"
    for array, path in zip((image, mask), paths, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return ImagePair(paths[0], paths[1:], mask_label=2, row=row)


def make_cases(folder: Path) -> tuple[Case, ...]:
    return (
        Case("a", "pre_dwi", (make_pair(folder, "a1", 2), make_pair(folder, "a2", 3)), "train"),
        Case("b", "ct", (make_pair(folder, "b", 4, tumour=1),), "test"),
        Case("c", "ct", (make_pair(folder, "c", 5, tumour=0, depth=4),), "validation"),
        Case("d", "ct", (make_pair(folder, "d", 6, tumour=2, depth=2),), "train"),
    )


def cut(cases, cache, **changes) -> Slices:
    """Prepares slices of `SIZE` pixels, but for `changes` of the configuration's fields."""
    workers = changes.pop("workers", 2)
    data = Data(cache=str(cache), **{"image_size": SIZE} | changes)
    return prepare(cases, data, workers=workers)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> tuple[Case, ...]:
    return make_cases(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def slices(cases, tmp_path_factory):
    return cut(cases, tmp_path_factory.mktemp("cache"))


def names(table: np.ndarray) -> list[tuple[int, int, int, bool]]:
    return [tuple(row)[:4] for row in table.tolist()]


def test_training_takes_tumour_slices_and_the_others_take_all(slices):
    assert names(slices.index("train")) == [
        (case, image, z, True)
        for case, image, n in ((0, 0, 3), (0, 1, 3), (3, 0, 2))
        for z in range(n)
    ]
    assert names(slices.index("test")) == [(1, 0, z, z < 1) for z in range(6)]
    assert names(slices.index("validation")) == [(2, 0, z, False) for z in range(4)]
    with pytest.raises(KeyError, match="tests"):
        slices.index("tests")


def test_all_training_slices(cases, tmp_path):
    table = cut(cases, tmp_path, train_slices="all").index("train")
    assert len(table) == 14
    assert table["tumour"].sum() == 8


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_records_are_the_resampled_slices(slices, split):
    source, table = slices.source(split), slices.index(split)
    assert len(source) == len(table)
    for i, (case, image, z, tumour) in enumerate(names(table)):
        grey_levels, tumour_pixels = source[i]
        pair = slices.cases[case].images[image]
        volume = volumes.read_image(pair.image)
        mask = masks.read_mask(pair.masks, 2, volume)
        grey = to_uint8(volume, slices.cases[case].condition, Data())
        np.testing.assert_array_equal(grey_levels[..., 0], resize(grey, SIZE)[z])
        np.testing.assert_array_equal(tumour_pixels[..., 0], resize_mask(mask, SIZE)[0][z])
        assert grey_levels.dtype == tumour_pixels.dtype == np.uint8
        assert grey_levels.shape == tumour_pixels.shape == (SIZE, SIZE, 1)
        assert tumour_pixels.any() == tumour


@pytest.mark.parametrize("antialias", [True, False])
def test_a_lesion_below_a_pixel_is_counted_and_kept(tmp_path, antialias):
    """A slice that was drawn with tumour has tumour in its record; before, it could be empty."""
    pair = make_pair(tmp_path, "small", 2)
    mask = np.zeros((6, 20, 16), np.uint8)
    mask[0, 8, 8] = mask[1, 8, 8] = 2
    mask[1, 2:12, 1:6] = 2
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(pair.masks[0]))
    cases = Case("a", "ct", (pair,), "train"), Case("b", "ct", (pair,), "test")
    slices = cut(cases, tmp_path / "cache", image_size=5, antialias=antialias)
    table = slices.index("test")
    assert table["too_small"].tolist() == [1, 1, 0, 0, 0, 0]
    found = [bool(slices.source("test")[z][1].any()) for z in range(3)]
    assert found == [antialias, True, False]
    assert len(slices.index("train")) == 2


def test_a_mask_whose_pixels_do_not_fill_bytes(tmp_path):
    cases = make_cases(tmp_path)
    source = cut(cases, tmp_path / "cache", image_size=13).source("train")
    _, mask = source[0]
    assert mask.shape == (13, 13, 1)
    assert mask.sum() > 0


def test_tfds_reads_the_same(slices):
    builder = tfds.builder_from_directory(slices.folder / "liver_slices" / "1.0.0")
    assert set(builder.info.splits) == {"train", "validation", "test"}
    theirs = builder.as_data_source("train")
    table = slices.index("train")
    for (image, mask), row, record in zip(slices.source("train"), table, theirs, strict=True):
        np.testing.assert_array_equal(image, record["image"])
        np.testing.assert_array_equal(
            mask.ravel(), np.unpackbits(record["mask"], count=SIZE * SIZE)
        )
        named = [record[name] for name in ("case", "image_index", "z")]
        assert named == [row[name] for name in ("case", "image", "z")]


def test_sources_travel_to_other_processes(slices):
    source = slices.source("train")
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[5], source[5])


def test_no_validation_case_is_an_empty_source(cases, tmp_path):
    slices = cut([c for c in cases if c.split != "validation"], tmp_path)
    assert len(slices.source("validation")) == len(slices.index("validation")) == 0
    assert len(slices.source("test")) == 6


def test_found_again_and_made_anew_where_something_changed(tmp_path):
    cases = make_cases(tmp_path)
    cache = tmp_path / "cache"
    first = cut(cases, cache)
    stamp = (first.folder / "index.npz").stat().st_mtime_ns
    again = cut(cases, cache)
    assert again.folder == first.folder == cache / "slices" / first.fingerprint
    assert (again.folder / "index.npz").stat().st_mtime_ns == stamp

    changed = [
        cut(cases, cache, image_size=33),
        cut(cases, cache, ct_window=(0, 100)),
        cut(cases, cache, mr_window="percentiles"),
        cut(cases, cache, antialias=False),
        cut(cases, cache, context=1),
        cut(cases, cache, train_slices="all"),
        cut(cases[:3], cache),
        cut((*cases[:3], dataclasses.replace(cases[3], split="test")), cache),
        cut((*cases[:3], dataclasses.replace(cases[3], condition="x")), cache),
    ]
    os.utime(cases[0].images[0].masks[0], ns=(1, 1))
    changed.append(cut(cases, cache))
    image = cases[0].images[0].image
    image.with_name(image.name.partition(".")[0] + ".bval").write_text("0")
    changed.append(cut(cases, cache))
    pair = make_pair(tmp_path, "twice", 7)
    for paths in (pair.masks, pair.masks + cases[0].images[0].masks):
        several = dataclasses.replace(pair, masks=paths)
        changed.append(cut((dataclasses.replace(cases[0], images=(several,)), *cases[1:]), cache))
    os.utime(cases[0].images[0].masks[0], ns=(2, 2))  # the second file of the last one
    last = dataclasses.replace(cases[0], images=(several,))
    changed += [cut((last, *cases[1:]), cache), cut(cases, cache, resample_masks=True)]
    assert len({first.fingerprint, *(other.fingerprint for other in changed)}) == 16


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_a_voxel_file_beside_its_header_makes_slices_anew(tmp_path, ending):
    cases = make_cases(tmp_path)
    (path,) = cases[1].images[0].masks
    mask = sitk.ReadImage(str(path))
    detached = path.with_name(f"mask{ending}")
    sitk.WriteImage(mask, str(detached))
    (image,) = cases[1].images
    moved = dataclasses.replace(image, masks=(detached,))
    cases = (cases[0], dataclasses.replace(cases[1], images=(moved,)), *cases[2:])
    first = cut(cases, tmp_path / "cache")
    assert cut(cases, tmp_path / "cache").fingerprint == first.fingerprint
    (raw,) = data_files(detached)
    raw.write_bytes(raw.read_bytes()[::-1])
    again = cut(cases, tmp_path / "cache")
    assert again.fingerprint != first.fingerprint
    assert again.digest != first.digest


def test_masks_on_another_grid_are_cut_if_asked_for(tmp_path):
    cases = make_cases(tmp_path)
    (path,) = cases[1].images[0].masks
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).repeat(2, 1).repeat(2, 2)
    fine = sitk.GetImageFromArray(mask)
    fine.SetSpacing((0.5, 0.5, 1.0))
    fine.SetOrigin((-0.25, -0.25, 0.0))
    expected = [mask for _, mask in cut(cases, tmp_path / "cache").source("test")]
    sitk.WriteImage(fine, str(path))
    with pytest.raises(CohortError, match=r"row 4: the mask .*differ in size .*--resample-masks"):
        cut(cases, tmp_path / "cache")
    found = cut(cases, tmp_path / "cache", resample_masks=True).source("test")
    np.testing.assert_array_equal([mask for _, mask in found], expected)


def test_the_digest_follows_the_content_not_the_place(slices, tmp_path):
    for folder in ("moved", "changed"):
        (tmp_path / folder).mkdir()
    moved = make_cases(tmp_path / "moved")
    again = cut(moved, tmp_path / "cache")
    assert again.fingerprint != slices.fingerprint
    assert again.digest == slices.digest
    changed = make_cases(tmp_path / "changed")
    make_pair(tmp_path / "changed", "b", 99, tumour=1)
    assert cut(changed, tmp_path / "cache").digest != slices.digest


def dicom_cohort(folder: Path) -> Path:
    """Three patients: a CT series each, given as a folder or a file of it, and a DICOM-SEG."""
    lines = ["patient,condition,image,mask,mask_label"]
    for number, (image, label) in enumerate([("ct", "Tumor*"), ("ct/003.dcm", ""), ("ct", "")]):
        place = folder / f"p{number}"
        files = dicoms.write_series(place / "ct", dicoms.voxels(number), series=dicoms.uid(number))
        tumour, liver = np.zeros((2, *dicoms.SHAPE), bool)
        tumour[2:4, 3:7, 5 : 9 + number], liver[:, 1:9, 2:12] = True, True
        dicoms.write_segments(place / "seg.dcm", files, {"Liver": liver, "Tumor_1": tumour})
        lines.append(f"p{number},ct,p{number}/{image},p{number}/seg.dcm,{label}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "cohort.csv"


def test_dicom_gives_the_slices_of_the_same_scans_in_nifti(tmp_path):
    cohort = dicom_cohort(tmp_path)
    lines = ["patient,condition,image,mask"]
    for number in range(3):
        place = tmp_path / f"p{number}"
        volume = volumes.read_image(place / "ct")
        mask = masks.read_mask(place / "seg.dcm", None, volume)
        assert mask.sum() == 2 * 4 * (4 + number)
        for name, array in (("image", volume.voxels), ("mask", mask)):
            image = volumes.to_original_grid(array, volume.geometry)
            volumes.write_image(image, place / f"{name}.nii.gz")
        lines.append(f"p{number},ct,p{number}/image.nii.gz,p{number}/mask.nii.gz")
    nifti = tmp_path / "nifti.csv"
    nifti.write_text("\n".join(lines) + "\n", encoding="utf-8")
    both = [
        cut(read_cohort(path, conditions=["ct"]), tmp_path / "cache") for path in (cohort, nifti)
    ]
    assert both[0].fingerprint != both[1].fingerprint
    assert both[0].digest == both[1].digest


def test_a_slice_that_changes_makes_a_dicom_cohort_anew(tmp_path):
    cohort = dicom_cohort(tmp_path)

    def prepared() -> str:
        cases = read_cohort(cohort, conditions=["ct"])
        return cut(cases, tmp_path / "cache").digest

    before = prepared()
    for place in ("p0/ct", "p1/ct"):  # a folder, and a file that is not the one named
        dicoms.write_series(tmp_path / place, dicoms.voxels(7), series=dicoms.uid(int(place[1])))
        assert prepared() != before
        before = prepared()


def test_order_does_not_depend_on_the_number_of_readers(cases, slices, tmp_path):
    single = cut(cases, tmp_path, workers=1)
    for split in ("train", "test"):
        for one, two in zip(single.source(split), slices.source(split), strict=True):
            np.testing.assert_array_equal(one, two)


def test_an_image_without_tumour_needs_no_mask(tmp_path):
    cases = make_cases(tmp_path)
    before = cut(cases, tmp_path / "cache")
    case = next(case for case in cases if case.split == "test")
    without = dataclasses.replace(case.images[0], masks=(), tumour=False)
    changed = tuple(
        dataclasses.replace(c, images=(without, *c.images[1:])) if c is case else c for c in cases
    )
    slices = cut(changed, tmp_path / "cache")
    assert slices.fingerprint != before.fingerprint
    table, old = slices.index("test"), before.index("test")
    own = (table["case"] == cases.index(case)) & (table["image"] == 0)
    assert own.sum() == 6
    assert not table["tumour"][own].any()
    assert old["tumour"][own].any()
    assert (table["tumour"] == old["tumour"])[~own].all()
    for record in np.flatnonzero(own):
        image, mask = slices.source("test")[int(record)]
        assert image.any()
        assert not mask.any()


def test_a_mask_with_tumour_contradicts_tumour_no(tmp_path):
    pair = make_pair(tmp_path, "p1", 2)
    cases = (
        Case("p1", "ct", (dataclasses.replace(pair, tumour=False),), "train"),
        Case("p2", "ct", (make_pair(tmp_path, "p2", 3),), "test"),
    )
    with pytest.raises(CohortError, match=r"cohort row 2: .*the column 'tumour' says 'no'"):
        cut(cases, tmp_path / "cache")


def test_every_unusable_image_is_listed_and_nothing_is_left(tmp_path):
    cases = make_cases(tmp_path)
    first, _, _, last = (case.images[0] for case in cases)
    whole = first.image.read_bytes()
    first.image.write_bytes(whole[:-40])
    test_mask = cases[1].images[0].masks[0]
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((5, 20, 16), np.uint8)), str(test_mask))
    sitk.WriteImage(
        sitk.GetImageFromArray(np.full((2, 20, 16), np.nan, np.float32)), str(last.image)
    )
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CohortError) as caught:
        cut(cases, tmp_path / "cache")
    lines = sorted(str(caught.value).splitlines())
    assert len(lines) == 3
    assert lines[0].startswith(f"cohort row 2: {first.image}: the file is cut off")
    assert lines[1].startswith(f"cohort row 4: the mask {test_mask} and the image")
    assert "differ in size" in lines[1]
    assert lines[2].startswith(f"cohort row 6: {last.image}: it has voxels that are NaN")
    assert list((tmp_path / "cache" / "slices").iterdir()) == []
    assert before == {file: file.read_bytes() for file in before}


def test_absent_files_are_listed(tmp_path):
    cases = make_cases(tmp_path)
    cases[0].images[1].image.unlink()
    cases[3].images[0].masks[0].unlink()
    with pytest.raises(CohortError, match=r"(?s)row 3: .*a2\.nii\.gz.*not found.*\n.*row 6: "):
        cut(cases, tmp_path / "cache")


def test_training_without_tumour_is_refused(tmp_path):
    pair = make_pair(tmp_path, "a", 2, tumour=0)
    for train_slices in ("tumour", "all"):
        with pytest.raises(CohortError, match=r"rows 2\) holds tumour; correct the masks"):
            cut([Case("a", "ct", (pair,), "train")], tmp_path / "cache", train_slices=train_slices)
    assert list((tmp_path / "cache" / "slices").iterdir()) == []


PREPARE = """
import sys
from pathlib import Path
from tests.data.test_slices import cut, make_cases
from crlm_jax.data import slice_builder
{before}
made = cut(make_cases(Path(sys.argv[1])), sys.argv[2])
for split in ("train", "validation", "test"):
    source = made.source(split)
    [source[i] for i in range(len(source))]
print("tensorflow" in sys.modules)
"""


def run(folder: Path, cache: Path, before: str = "", **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE.format(before=before), str(folder), str(cache)],
        cwd=Path(__file__).parents[2],
        text=True,
        stdout=subprocess.PIPE,
        **options,
    )


def test_killed_while_preparing(tmp_path):
    scans, cache = tmp_path / "scans", tmp_path / "cache"
    scans.mkdir()
    # It stops for good once the first images are written, and is killed there.
    stop = """
import time
cut_image = slice_builder._cut_image
def slow(job, **settings):
    if job.case == 1:
        Path(sys.argv[2], "reached").touch()
        time.sleep(600)
    return cut_image(job, **settings)
slice_builder._cut_image = slow
"""
    cache.mkdir()
    process = run(scans, cache, stop)
    for _ in range(600):
        if (cache / "reached").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = list((cache / "slices").iterdir())
    assert [path.suffix for path in left] == [".partial"]

    cases = tuple(dataclasses.replace(case, images=case.images) for case in make_cases(scans))
    slices = cut(cases, cache)
    assert len(slices.source("train")) == 8
    assert left[0].exists()  # perhaps another process's work: cleared away after a day
    os.utime(left[0], (0, 0))
    cut(cases, cache, image_size=SIZE + 1)
    assert not left[0].exists()


def _prepare(cases, cache, barrier, queue):
    barrier.wait()
    slices = cut(cases, cache)
    queue.put((str(slices.folder), int(sum(image.sum() for image, _ in slices.source("train")))))


def test_two_processes_at_once(cases, slices, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_prepare, args=(cases, tmp_path, barrier, queue)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1]
    assert found[0][1] == sum(int(image.sum()) for image, _ in slices.source("train"))
    assert [path.name for path in (tmp_path / "slices").iterdir()] == [slices.fingerprint]


def test_without_tensorflow(tmp_path):
    (tmp_path / "scans").mkdir()
    process = run(tmp_path / "scans", tmp_path / "cache", stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert out.strip() == "False", err


def test_memory_does_not_grow_with_the_cohort(tmp_path, monkeypatch):
    """No more images are read ahead than there are readers."""
    alive, most = set(), [0]
    cut_image = slice_builder._cut_image

    def counted(job, **settings):
        alive.add(job)
        most[0] = max(most[0], len(alive))
        return cut_image(job, **settings)

    encode = tfds.features.FeaturesDict.encode_example

    def written(self, example):
        alive.intersection_update(job for job in alive if job.case >= example["case"])
        return encode(self, example)

    monkeypatch.setattr(slice_builder, "_cut_image", counted)
    monkeypatch.setattr(tfds.features.FeaturesDict, "encode_example", written)
    pairs = [make_pair(tmp_path, f"p{i}", i, depth=2, tumour=2) for i in range(12)]
    cases = [Case(f"p{i}", "ct", (pair,), "train") for i, pair in enumerate(pairs)]
    assert len(cut(cases, tmp_path / "cache", workers=2).source("train")) == 24
    assert most[0] <= 3


def test_real_cohort(shared, tmp_path):
    data = shared / "data"
    cases = read_cohort(data / "cohort.csv", conditions=["ct"])
    slices = cut(cases, tmp_path, image_size=64, train_slices="all")
    tumour = dict.fromkeys((case.patient for case in cases), 0)
    for split in ("train", "validation", "test"):
        for row in slices.index(split):
            tumour[cases[row["case"]].patient] += int(row["tumour"])
    assert len(tumour) == 11
    of_pictures = [count for patient, count in tumour.items() if patient.startswith("msd-")]
    assert sum(of_pictures) == 12
    assert sum(count > 0 for count in of_pictures) == 6
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "ct_volume" / "labels.nii.gz")))
    assert tumour["lits-117"] == (labels == 2).any(axis=(1, 2)).sum()
