"""Where the networks look: maps that add up, follow the lesion, and lie on the scan."""

import dataclasses
import json
import math
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk
from flax import nnx

from crlm_jax.config.storage import to_json
from crlm_jax.explain import command as explain_command
from crlm_jax.explain.figure import Figure
from crlm_jax.imaging import volumes
from crlm_jax.imaging.grey import to_uint8
from crlm_jax.method import attribution as method_attribution
from crlm_jax.method import losses, networks
from crlm_jax.method.checkpoint import Checkpoints
from crlm_jax.method.segment import load_best
from crlm_jax.method.step import create_state, make_update
from crlm_jax.models.inputs import critic_input, network_input
from crlm_jax.models.resnet import ResNet50
from crlm_jax.models.torch_weights import WeightsError
from crlm_jax.system import parallel
from crlm_jax.system.console import exit_code
from crlm_jax.training.loop import segmenter_part
from tests.cohorts import tiny_config
from tests.imaging.dicom import dicoms

SIZE = 32
SPACING = (1.5, 1.5, 7.0)  # mm: x, y, z


def blob(centre=(16, 16), radius=5.0, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """A slice like those of `tests.cohorts`, in grey levels, and its lesion."""
    y, x = np.indices((SIZE, SIZE))
    mask = np.hypot(y - centre[0], x - centre[1]) < radius
    grey = np.random.default_rng(seed).normal(60, 10, mask.shape) + 150 * mask
    return np.clip(grey, 0, 255).astype(np.uint8), mask


def save_run(run, config, state):
    run.mkdir(parents=True)
    (run / "config.json").write_text(to_json(config), encoding="utf-8")
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(3, segmenter_part(state), None)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run that was shown bright blobs until it found them: (folder, config)."""
    run = tmp_path_factory.mktemp("runs") / "blobs"
    config = tiny_config(run / "no cohort is needed", run.parent / "cache")
    without = tiny_config(run, run)
    without.loss.stages = ()
    structure, state = create_state(without, parallel.make_mesh(1))
    update = jax.jit(make_update(without, structure, steps=1))
    rng = np.random.default_rng(0)
    for step in range(60):
        pairs = [blob(rng.uniform(7, 25, 2), rng.uniform(3, 6), (step, i)) for i in range(8)]
        image, mask = (np.stack(a)[..., None] for a in zip(*pairs, strict=True))
        image = (image * rng.uniform(0.6, 1)).astype(np.uint8)  # as windows show them
        state, terms = update(state, network_input(image), mask.astype(np.float32))
    assert terms["loss"] < 0.5
    return save_run(run, config, state), config


@pytest.fixture(scope="module")
def network(trained):
    run, config = trained
    return load_best(config, run / "checkpoints", parallel.make_mesh(1))


def write(path, array, **geometry):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.get("spacing", SPACING))
    image.SetOrigin((5.0, -60.0, 900.0))
    image.SetDirection(geometry.get("direction", (-1.0, 0, 0, 0, -1, 0, 0, 0, 1)))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def scan(tmp_path):
    """A scan with two lesions, one in two slices, and its reference mask."""
    slices = [blob((12, 10)), blob((12, 10), 4.0), blob((99, 99)), blob((20, 22))]
    image, mask = (np.stack(a) for a in zip(*slices, strict=True))
    return (
        write(tmp_path / "scan.nii.gz", image.astype(np.int16)),
        write(tmp_path / "mask.nii.gz", mask.astype(np.uint8)),
    )


@pytest.fixture
def command(trained, capsys):
    """Calls the command; returns its exit code, or the error, and what it said."""

    def call(*words, run=None):
        words = ("--run", run or trained[0], "--steps", 32, *words)
        code = exit_code(explain_command.main, [str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def quick(monkeypatch):
    """Empty pictures, where they are not what is looked at."""
    monkeypatch.setattr(explain_command, "draw_lesion", lambda *_: Figure())


# Integrated gradients


def linear(weight, image):
    return jnp.sum(weight * image)


def test_of_a_linear_score_it_is_weight_times_change():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 8)).astype(np.float32)
    image, baseline = rng.uniform(0, 255, (2, 8, 8)).astype(np.float32)
    score = jax.tree_util.Partial(linear, weight)
    found = method_attribution.integrated_gradients(score, image, baseline, 3)
    np.testing.assert_allclose(found.map, weight * (image - baseline), rtol=1e-4, atol=1e-3)
    assert found.steps == 3
    assert found.error < 1e-4


def test_steps_are_doubled_until_the_sum_holds_or_the_error_is_told():
    image, baseline = np.full((4, 4), 200.0), np.zeros((4, 4))
    smooth = jax.tree_util.Partial(lambda x: jnp.sum((x / 100) ** 4))
    found = method_attribution.integrated_gradients(smooth, image, baseline, 2)
    assert found.steps in (8, 16)
    assert found.error <= 0.01
    assert found.total == pytest.approx(256, rel=0.01)
    # The trapezoidal rule with this many steps from scratch, as NumPy has it.
    nodes = np.linspace(0, 2, found.steps + 1)
    assert found.map[0, 0] == pytest.approx(np.trapezoid(4 * nodes**3, nodes), rel=1e-4)
    step = jax.tree_util.Partial(lambda x: jnp.sum(jnp.where(x > 100, 1.0, 0.0)))
    jump = method_attribution.integrated_gradients(
        step, image, baseline, 2
    )  # no gradient sees a jump
    assert (jump.steps, jump.total, jump.error) == (16, 0.0, 1.0)


def test_nothing_to_share_out():
    flat = np.full((4, 4), 7.0)
    score = jax.tree_util.Partial(linear, np.ones((4, 4), np.float32))
    assert method_attribution.integrated_gradients(score, flat, flat, 2).error == 0
    assert method_attribution.completeness_error(1.0, 0.0) == math.inf
    with pytest.raises(ValueError, match="steps = 0"):
        method_attribution.integrated_gradients(score, flat, flat, 0)


@pytest.mark.parametrize("place", [(10, 10), (20, 22)])
def test_the_map_of_a_network_adds_up_and_follows_the_lesion(network, place):
    image, mask = blob(place)
    score = method_attribution.LesionScore.of(network, mask)
    found = method_attribution.integrated_gradients(
        score, image, method_attribution.blurred(image), 32
    )
    assert found.error <= 0.01
    difference = float(score(image.astype("f4")) - score(method_attribution.blurred(image)))
    assert found.total == pytest.approx(difference, rel=0.011)
    weight = np.abs(found.map)
    centre = (np.indices(weight.shape) * weight).sum(axis=(1, 2)) / weight.sum()
    np.testing.assert_allclose(centre, place, atol=2)
    assert found.map[mask].sum() > 0
    hidden = method_attribution.occlusion(score, image, 6, 3)
    np.testing.assert_allclose(np.unravel_index(hidden.argmax(), hidden.shape), place, atol=5)


def test_the_score_is_the_sum_of_the_logits_over_the_lesion(network):
    image, mask = blob()
    image //= 2  # p is below 1, whose logit is infinite
    p = np.asarray(network.probability(image[None, ..., None]), float)[0]
    score = method_attribution.LesionScore.of(network, mask)
    logits = np.log(p / (1 - p))[mask]
    assert float(score(image.astype(np.float32))) == pytest.approx(logits.sum(), rel=1e-3)


def test_all_lesions_share_one_program(network):
    before = method_attribution._gradients._cache_size()
    for place in ((9, 9), (20, 12)):
        image, mask = blob(place)
        score = method_attribution.LesionScore.of(network, mask)
        method_attribution.integrated_gradients(score, image, method_attribution.blurred(image), 4)
    assert method_attribution._gradients._cache_size() - before <= 1


def test_a_region_is_attributed_from_the_blurred_slice_until_the_sum_holds(network):
    image, mask = blob()
    found = method_attribution.attribute_region(network, image, mask, 4)
    score = method_attribution.LesionScore.of(network, mask)
    again = method_attribution.integrated_gradients(
        score, image, method_attribution.blurred(image), 4
    )
    np.testing.assert_array_equal(found.map, again.map)
    assert found.complete == (found.error <= 0.01)
    short = method_attribution.integrated_gradients(
        score, image, method_attribution.blurred(image), 1, tolerance=math.inf
    )
    assert short.steps == 1
    assert not short.complete  # one step does not do here
    assert found.error < short.error


# Occlusion


@pytest.mark.parametrize(("patch", "stride"), [(4, 2), (5, 3), (4, 4)])
def test_occlusion_finds_the_patch_that_counts(patch, stride):
    weight = np.zeros((16, 16), np.float32)
    weight[3:6, 9:12] = 1
    image = np.where(weight > 0, 200.0, 50.0)
    score = jax.tree_util.Partial(linear, weight)
    found = method_attribution.occlusion(score, image, patch, stride, fill=50.0)
    place = np.unravel_index(found.argmax(), found.shape)
    np.testing.assert_allclose(place, (4, 10), atol=patch / 2)
    assert found[10:, :5].max() == 0
    assert found.min() >= 0
    whole = method_attribution.occlusion(score, image, 16, 16)  # one patch, filled with the mean
    np.testing.assert_allclose(whole, 9 * (200 - image.mean()), rtol=1e-5)


def test_a_patch_that_leaves_gaps_is_refused():
    score = jax.tree_util.Partial(linear, np.ones((8, 8), np.float32))
    for patch, stride in ((4, 5), (9, 4), (4, 0)):
        with pytest.raises(ValueError, match="1 ≤ stride ≤ patch ≤ 8"):
            method_attribution.occlusion(score, np.ones((8, 8)), patch, stride)


# Stages


def test_the_mean_of_a_stage_map_is_its_term_of_the_loss():
    critic = ResNet50(last_stage=2, width=4, rngs=nnx.Rngs(0))
    image, mask = blob()
    predicted = np.random.default_rng(1).uniform(0, 1, mask.shape).astype(np.float32)
    maps = method_attribution.stage_differences(critic, image, predicted, mask, (1, 2))
    assert {s: m.shape for s, m in maps.items()} == {1: (8, 8), 2: (4, 4)}
    seen, call = network_input(image[None, ..., None]), nnx.jit(lambda net, x: net(x))
    shown = (p[None, ..., None] for p in (predicted, mask.astype("f4")))
    features = [call(critic, critic_input(seen, p, "before_normalisation")) for p in shown]
    for stage, values in maps.items():
        term = losses.feature_distance(*features, stages=(stage,))
        assert values.mean() == pytest.approx(float(term), rel=1e-4)
    same = method_attribution.stage_differences(critic, image, mask, mask, (1, 2))
    assert not same[1].any()


@pytest.mark.parametrize(("features", "pixel"), [(16, 4), (8, 8), (4, 16)])
def test_a_stage_map_lies_over_the_pixels_that_it_saw(features, pixel):
    values = np.zeros((features, features))
    values[2, 1] = 1
    weight = method_attribution.upsample_stage_map(values, 64)
    centre = (np.indices(weight.shape) * weight).sum(axis=(1, 2)) / weight.sum()
    np.testing.assert_allclose(centre, (2 * pixel, pixel), atol=0.5)


# The command


def test_it_writes_what_it_says(command, scan, tmp_path):
    image, mask = scan
    out = tmp_path / "out"
    code, said = command("--image", image, "--out", out, "--mask", mask)
    assert code == 0
    assert "2 of 2 lesion(s) explained" in said
    assert "RANDOM CRITIC" in said
    expected = {"explain.json", "stage1.nii.gz"}
    for n in (1, 2):
        expected |= {f"lesion{n}.png"}
        expected |= {f"lesion{n}_{m}.nii.gz" for m in ("integrated_gradients", "occlusion")}
    assert {path.name for path in out.iterdir()} == expected
    about = json.loads((out / "explain.json").read_text())
    first, second = about["lesions"]
    assert [row["slice"] for row in first["by_slice"]] == [0, 1]
    assert [row["slice"] for row in second["by_slice"]] == [3]
    for lesion in (first, second):
        assert lesion["complete"]
        assert lesion["completeness_error"] <= lesion["worst_slice_error"] <= 0.01
        difference = lesion["score"] - lesion["baseline_score"]
        assert lesion["sum"] == pytest.approx(difference, rel=0.011)
        assert 0.1 < lesion["share_inside"] < lesion["share_within_10_mm"] <= 1
    assert set(about["stages"]["1"]) == {"0", "1", "3"}
    # On the scan's own points: the scan's rows and columns run against the patient's axes.
    source = sitk.ReadImage(str(image))
    for name in expected:
        if name.endswith(".nii.gz"):
            written = sitk.ReadImage(str(out / name))
            assert written.GetSize() == source.GetSize()
            for about_grid in ("GetSpacing", "GetOrigin", "GetDirection"):
                ours, theirs = getattr(written, about_grid)(), getattr(source, about_grid)()
                np.testing.assert_allclose(ours, theirs, atol=1e-5)
    read = lambda name: sitk.GetArrayFromImage(sitk.ReadImage(str(out / name)))  # noqa: E731
    whole = read("lesion1_integrated_gradients.nii.gz")
    assert whole[:2].sum() == pytest.approx(first["sum"], rel=1e-3)  # 32 × 32: as it was
    assert not whole[2:].any()
    most = np.unravel_index(read("lesion2_occlusion.nii.gz").argmax(), whole.shape)
    assert most[0] == 3
    np.testing.assert_allclose(most[1:], (20, 22), atol=5)


@pytest.mark.usefixtures("quick")
def test_one_lesion_and_one_method(command, scan, tmp_path):
    out = tmp_path / "out"
    words = ("--image", scan[0], "--out", out)
    code, said = command(*words, "--lesion", 2, "--method", "occlusion")
    assert code == 0
    assert "1 of 2 lesion(s)" in said
    assert "no stage maps" in said
    assert "--mask" in said
    names = {path.name for path in out.iterdir()}
    assert names == {"explain.json", "lesion2.png", "lesion2_occlusion.nii.gz"}
    code, _ = command(*words, "--lesion", 1, "--method", "integrated_gradients")  # replaces
    assert code == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"explain.json", "lesion1.png", "lesion1_integrated_gradients.nii.gz"}
    code, said = command(*words, "--lesion", 3)
    assert code == 1
    assert "error: --lesion 3: 2 lesion(s) are predicted" in said
    assert {path.name for path in out.iterdir()} == names


def test_no_lesion_is_no_error(command, tmp_path):
    image = write(tmp_path / "scan.nii.gz", np.stack([blob((99, 99))[0]] * 2))  # 8 bits: as is
    code, said = command("--image", image, "--out", tmp_path / "out", "--lesion", 1)
    assert code == 0
    assert "no lesion is predicted" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explain.json"]
    assert json.loads((tmp_path / "out" / "explain.json").read_text())["lesions"] == []


@pytest.mark.usefixtures("quick")
def test_without_the_critic_the_other_maps_are_made(command, scan, tmp_path, monkeypatch):
    def nowhere(config):
        raise WeightsError("cannot get the weights; three ways out")

    monkeypatch.setattr(networks, "create_critic", nowhere)
    words = ("--image", scan[0], "--mask", scan[1], "--out", tmp_path / "out", "--lesion", 2)
    code, said = command(*words, "--method", "occlusion")
    assert code == 1
    assert "error: no stage maps: cannot get the weights; three ways out" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"explain.json", "lesion2.png", "lesion2_occlusion.nii.gz"}
    assert "three ways out" in (tmp_path / "out" / "explain.json").read_text()


@pytest.mark.usefixtures("quick")
def test_the_liver_counts_as_the_run_says(command, scan, trained, tmp_path):
    run, config = trained
    by_column = tmp_path / "by_column"
    shutil.copytree(run, by_column)
    evaluation = dataclasses.replace(config.evaluation, liver="column")
    text = to_json(dataclasses.replace(config, evaluation=evaluation))
    (by_column / "config.json").write_text(text, encoding="utf-8")
    image = sitk.ReadImage(str(scan[0]))
    inside = np.zeros((4, SIZE, SIZE), np.uint8)
    inside[:3] = 1  # the lesion of the last slice lies outside
    liver = sitk.GetImageFromArray(inside)
    liver.CopyInformation(image)
    sitk.WriteImage(liver, str(tmp_path / "liver.nii.gz"))
    (tmp_path / "cohort.csv").write_text(
        f"patient,condition,image,liver\np1,{config.data.conditions[0]},scan.nii.gz,liver.nii.gz\n"
    )
    numbers, warned = [], []
    for source, of in (("cohort.csv", by_column), ("cohort.csv", run), ("scan.nii.gz", by_column)):
        words = ("--image", tmp_path / source, "--out", tmp_path / "out", "--method", "occlusion")
        code, said = command(*words, run=of)
        assert code == 0, said
        found = json.loads((tmp_path / "out" / "explain.json").read_text())
        numbers.append(len(found["lesions"]))
        warned.append("not restricted to the liver: no scan has a mask of it" in said)
    assert numbers == [1, 2, 2]
    assert warned == [False, False, True]


@pytest.mark.usefixtures("quick")
def test_a_scan_of_another_modality_is_warned_of(command, scan, trained, tmp_path):
    words = ("--image", scan[0], "--out", tmp_path / "out", "--method", "occlusion")
    said = command(*words, "--condition", "ct")[1]
    assert f"is ct, but the run was trained on {trained[1].data.conditions[0]}" in said
    assert "but the run was trained on" not in command(*words)[1]


def test_what_cannot_be_done_is_one_line_and_leaves_no_part(
    command, scan, tmp_path, monkeypatch, capsys
):
    image, mask = scan
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    other = write(tmp_path / "other.nii.gz", np.ones((2, 8, 8), np.uint8))
    before = sorted(tmp_path.rglob("*"))
    new = ("--out", tmp_path / "out")
    _, said = command("--image", tmp_path, *new)
    assert f"left out 1 file(s) that are no scans by name and content: {mask.name} (a mask)" in said
    assert f"2 scans; name one of them:\nerror: {other}\nerror: {image}" in said
    for words, part in (
        (("--image", image, "--out", tmp_path / "full"), "something else (thesis.tex)"),
        (("--image", image, "--out", mask), "something else (a file)"),
        (("--image", image, "--out", mask / "in"), "give another --out"),
        (("--image", tmp_path / "none.nii.gz", *new), "file not found"),
        (("--image", image, "--mask", other, *new), "differ in size"),
    ):
        code, said = command(*words)
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 1
        assert part in line
        assert sorted(tmp_path.rglob("*")) == before
    assert "no run is here" in command("--image", image, *new, run=tmp_path)[1]

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(volumes, "write_image", full)
    code, said = command("--image", image, *new, "--method", "occlusion", "--lesion", 1)
    assert code == 1
    assert "error: no space left on device" in said
    assert sorted(tmp_path.rglob("*")) == before
    for words in (("--steps", 0), ("--mask-label", 1), ("--lesion", 0), ("--condition", "CT")):
        with pytest.raises(SystemExit, match="2"):
            command("--image", image, *new, *words)
        assert words[0] in capsys.readouterr().err


def test_no_patient_name_goes_anywhere(command, tmp_path):
    array = np.stack([blob((12, 10))[0], blob((12, 10), 4.0)[0], blob((99, 99))[0]])
    dicoms.write_series(tmp_path / "mr", array.astype(np.int16), modality="MR")
    out = tmp_path / "out"
    code, said = command("--image", tmp_path / "mr", "--out", out)
    assert code == 0
    assert (out / "lesion1.png").is_file()
    written = b"".join(path.read_bytes() for path in out.iterdir()) + said.encode()
    patient = dicoms.PATIENT
    for word in (*patient["PatientName"].split("^"), patient["PatientBirthDate"]):
        assert word.encode() not in written
    assert patient["PatientID"].encode() not in written


def test_a_phantom_is_marked_and_logits_are_taken_as_trained(trained, scan, tmp_path, command):
    run, config = trained
    phantom = tmp_path / "runs" / "phantom"
    phantom.mkdir(parents=True)
    (phantom / "checkpoints").symlink_to(run / "checkpoints")
    text = to_json(config).replace(json.dumps(config.data.cohort), '"phantom"')
    (phantom / "config.json").write_text(text.replace('"probability"', '"logits"'))
    titles = []
    draw = Figure.suptitle
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "suptitle", lambda f, t, **o: titles.append(t) or draw(f, t, **o))
        words = ("--image", scan[0], "--mask", scan[1], "--out", tmp_path / "out", "--lesion", 2)
        code, said = command(*words, run=phantom)
    assert code == 0
    assert "PHANTOM" in said
    (title,) = titles
    assert title.startswith("phantom · lesion 2 · pre_dwi · slice 3 · completeness error ")
    about = json.loads((tmp_path / "out" / "explain.json").read_text())
    task_logits = partial(
        method_attribution.logits,
        load_best(config, run / "checkpoints", parallel.make_mesh(1)),
    )
    _, mask = blob((20, 22))
    grey = to_uint8(volumes.read_image(scan[0]), "pre_dwi", config.data)[3]
    # The scan's rows and columns run against the patient's.
    maps = method_attribution.stage_differences(
        networks.create_critic(config), grey, task_logits(grey), mask[::-1, ::-1], (1,)
    )
    assert about["stages"]["1"]["3"] == pytest.approx(float(maps[1].mean()), rel=1e-3)
    assert not math.isclose(maps[1].mean(), 0)
