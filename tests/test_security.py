"""What files from elsewhere may do: be read. Not be executed, leave a folder, or reach a network.

The names in cohort files, manifests and DICOM headers, weights, checkpoints and images may come
from anybody. What a cohort file reads is the user's own choice: its paths may lead anywhere, also
by `..` or from the root, since images often lie on another disk.
"""

import html.parser
import io
import os
import pickle
import re
import shutil
import socket
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crlm_jax import main
from crlm_jax.config.schema import ConfigError, Data
from crlm_jax.data.cohort import command as cohort_command
from crlm_jax.data.cohort.cases import read_cohort, read_images
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.data.tcia import collection, download, importing
from crlm_jax.errors import UserError
from crlm_jax.measures.view import CaseView
from crlm_jax.models import torch_weights, transunet_weights
from crlm_jax.models.torch_weights import WeightsError, load_safetensors
from crlm_jax.predict import command as predict_command
from crlm_jax.report import command as report_command
from crlm_jax.report.page import write_report
from crlm_jax.study import runs as study_runs
from crlm_jax.system import parallel
from crlm_jax.system.console import print_stderr, printable
from crlm_jax.system.files import own_names
from crlm_jax.training import experiment
from tests.cohorts import make_cohort, tiny_config
from tests.finished_runs import make_run
from tests.imaging.dicom import dicoms
from tests.predict.test_segmenter import identity

# Names


HOSTILE = (
    "../../etc/x", "..", ".", "/etc/x", "C:\\x", "..\\..\\x", "a/b", "\\\\server\\share", "~root",
    "CON", "nul.tar", "com1", "-rf", "a\0b", "a\nb", "\u202egnp.exe", "x" * 5000, "ä" * 5000,
    "$(reboot)", "{name}", "%s", ".hidden", "end.", "p 1", "<b>", "\ud800", "", "a_b", "A_B",
)  # fmt: skip


def test_own_names_are_files_of_their_folder_and_unlike(tmp_path):
    names = own_names(HOSTILE)
    assert len({name.casefold() for name in names}) == len(HOSTILE)
    for name in names:
        assert re.fullmatch(r"[\w-][\w.-]*", name)
        assert not re.fullmatch(r"(?i)(con|nul|com1)(\..*)?", name)
        assert len(name.encode()) < 140
        (tmp_path / f"{name}_z000.nii.gz").touch()
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)
    assert own_names(["p1_ct", "Ä-2.b"]) == ["p1_ct", "Ä-2.b"]  # as they were, where they may be
    assert own_names(["e\u0301", "\u00e9"]) == ["\u00e9", "\u00e9_2"]  # one letter in two ways


PATIENTS = ("../../etc/x", "/etc/x", "CON", "x" * 500, "a/b", "a_b", "{name}", "..", "<b>p</b>")


def write_cohort(folder: Path, patients=PATIENTS) -> Path:
    """A cohort whose patients have these names, all with the condition ct."""
    source = make_cohort(folder / "images", patients=len(patients))
    lines = ["patient,condition,image,mask"]
    for number, patient in enumerate(patients):
        stem = source.parent / f"p{number:02d}_pre_dwi"
        name = '"' + patient.replace('"', '""') + '"'
        lines.append(f"{name},ct,{stem}_image.nii.gz,images/../images/{stem.name}_mask.nii.gz")
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("out", ["masks", "masks/{name}.nii.gz", "masks/{name}/mask.nii.gz"])
def test_masks_stay_in_their_folder(tmp_path, monkeypatch, out):
    cohort = write_cohort(tmp_path / "in")
    (tmp_path / "out" / "masks").mkdir(parents=True)
    before = tree(tmp_path)
    monkeypatch.setattr(predict_command, "load", lambda run, **options: identity())
    words = ["--run", "x", "--image", cohort, "--out", tmp_path / "out" / out]
    words += ["--overlay", tmp_path / "out" / "pictures"]
    assert predict_command.main([str(word) for word in words]) == 0
    new = tree(tmp_path) - before
    assert len([name for name in new if name.endswith(".nii.gz")]) == len(PATIENTS)
    assert all(name.startswith(("out/masks/", "out/pictures")) for name in new)


def test_a_mask_is_not_written_over_the_scan_of_another(tmp_path, monkeypatch):
    source = make_cohort(tmp_path / "in", patients=2)
    for number, name in ((0, "p_ct_2"), (1, "p_ct")):
        (source.parent / f"p0{number}_pre_dwi_image.nii.gz").rename(
            source.parent / f"{name}.nii.gz"
        )
    source.write_text("patient,condition,image\np,ct,p_ct_2.nii.gz\np,ct,p_ct.nii.gz\n")
    before = {path: path.read_bytes() for path in source.parent.iterdir()}
    monkeypatch.setattr(predict_command, "load", lambda run, **options: identity())
    with pytest.raises(UserError, match=r"p_ct\.nii\.gz: --out would write over the scan"):
        predict_command.main(["--run", "x", "--image", str(source), "--out", str(source.parent)])
    assert before == {path: path.read_bytes() for path in source.parent.iterdir()}


@pytest.mark.parametrize(
    ("patient", "message"),
    [
        ("=cmd|' /C calc'!A0", "is a formula to a spreadsheet"),
        ("+1", "is a formula"), ("-1", "is a formula"), ("@SUM(A1)", "is a formula"),
        ("＝1", "is a formula"),
        ("p\u202e1", r"holds the invisible character U\+202E"),
        ("p\u200b1", r"holds the invisible character U\+200B"),
        ("p\n1", r"holds the control character U\+000A"),
        ("p\x1b[2J", r"holds the control character U\+001B"),
    ],
)  # fmt: skip
def test_patients_that_tables_and_terminals_would_obey_are_refused(tmp_path, patient, message):
    cohort = write_cohort(tmp_path, ("p1", patient))
    for read in (lambda: read_cohort(cohort, conditions=("ct",)), lambda: read_images(cohort)):
        with pytest.raises(CohortError, match=message) as caught:
            read()
        assert "row 3, column 'patient'" in str(caught.value)
        assert printable(str(caught.value)) == str(caught.value)


def test_a_terminal_shows_what_it_would_obey(capsys):
    print_stderr("no file \x1b]0;owned\x07\u202e ä\nnext")
    assert capsys.readouterr().err == "no file \\x1b]0;owned\\x07\\u202e ä\nnext\n"


def test_patient_ids_of_dicom_stay_in_the_cohort(tmp_path):
    ids = ["../../escaped", "..", "CON", "x" * 64, "end.", "=cmd()", "a\x1bb"]
    for number, patient in enumerate(ids, start=1):
        files = dicoms.write_series(
            tmp_path / "dicom" / str(number), dicoms.voxels(number), series=dicoms.uid(number),
            change=lambda index, header, patient=patient: setattr(header, "PatientID", patient),
        )  # fmt: skip
        mask = np.zeros(dicoms.SHAPE, bool)
        mask[2, 4:6, 4:6] = True
        dicoms.write_segments(tmp_path / "dicom" / f"{number}.seg.dcm", files, {"Tumor_1": mask})
    before = tree(tmp_path)
    outcome = importing.import_collection(tmp_path / "dicom", tmp_path / "out")
    assert sorted(outcome.taken) == sorted(ids[:5])
    assert all(name == "out" or name.startswith("out/") for name in tree(tmp_path) - before)
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert folders == {
        "..%2F..%2Fescaped".replace("..", "%2E.", 1),
        "%2E%2E",
        "%43ON",
        ids[3],
        "end%2E",
    }
    for name in ("cohort.csv", "import_log.csv"):  # neither a formula nor a control character
        text = (tmp_path / "out" / name).read_text()
        assert printable(text) == text
        assert not re.search(r"(^|,)[=+@-]", text, re.MULTILINE)
    assert {row.patient for row in read_images(tmp_path / "out" / "cohort.csv")} == set(ids[:5])


@pytest.mark.parametrize("field", ["patient", "modality", "uid"])
@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "a\\b", "", "a\n"])
def test_an_index_that_names_other_folders_is_not_downloaded(tmp_path, monkeypatch, field, name):
    one = download.IndexedSeries("p", "CT", "1.2", 1, 1.0, "CC BY 4.0")
    monkeypatch.setattr(download, "list_series", lambda: [replace(one, **{field: name})])
    with pytest.raises(collection.ImportFailed, match="cannot be the name of a folder; pip"):
        download.download(tmp_path / "new", yes=True)
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("name", ["../x/y/seed0", "/x/y/seed0", "a/../seed0", "a/b/seed0/../../.."])
def test_the_runs_of_a_study_stay_in_its_folder(tmp_path, name):
    file = tmp_path / "study_file.py"
    file.write_text(
        "from crlm_jax.config import Config\n"
        f"def get_study(arg):\n    return [({name!r}, Config(name='x'))]\n"
    )
    with pytest.raises(ConfigError, match="is not named experiment/system/seedN"):
        study_runs.load_study(str(file), tmp_path / "study")


# Code in data


class Bomb:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)

    def __init__(self, mark: Path):
        self.mark = mark


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle"])
def test_pickled_weights_are_refused(tmp_path, kind):
    mark, stream = tmp_path / "mark", io.BytesIO()
    bomb = np.array([Bomb(mark)], object)
    if kind == "npz":
        np.savez(stream, facts=bomb, grey=bomb)
    elif kind == "npy":
        np.save(stream, bomb)
    else:
        pickle.dump(Bomb(mark), stream)
    path = tmp_path / "weights.npz"
    path.write_bytes(stream.getvalue())
    for read, error in (
        (transunet_weights._read, WeightsError),
        (load_safetensors, WeightsError),
        (CaseView.load, UserError),
    ):
        with pytest.raises(error, match=re.escape(str(path))):
            read(path)
    assert not mark.exists()


def test_weights_that_unfold_without_end(tmp_path):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", bytes(2**16))
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    struct.pack_into("<I", content, directory + 24, 2**32 - 2)
    end = content.index(b"PK\5\6")  # a second such member
    content[end:end] = content[directory:end]
    end = content.index(b"PK\5\6")
    struct.pack_into("<2HI", content, end + 8, 2, 2, end - directory)
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsError, match=r"it decompresses to 8,589,934,588 bytes"):
        transunet_weights._read(path)


def test_nothing_but_numpy_and_safetensors_reads_weights():
    package = Path(main.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"\b(pickle|dill|joblib|marshal|shelve|torch\.load|eval)\b[.(]",
            text.replace(".eval(", ""),
        ), path
        loads = re.findall(r"np\.load\([^)]*\)", text)
        assert all("allow_pickle=False" in call for call in loads), path


def test_a_foreign_run_names_no_cache_of_programs(tmp_path, monkeypatch):
    # Programs in the compile cache are executed: predict uses the user's own, never the run's.
    segmenter, used = identity(), []
    segmenter.config.data.cache = str(tmp_path / "run" / "cache")
    monkeypatch.setattr(predict_command, "load", lambda run, **options: segmenter)
    monkeypatch.setattr(parallel, "use_compile_cache", used.append)
    cohort = write_cohort(tmp_path, ("p",))
    predict_command.main(["--run", "x", "--image", str(cohort), "--out", str(tmp_path / "m")])
    assert used == [Data.cache]


# Pages


class Links(html.parser.HTMLParser):
    """Collects what a page would ask for, and its scripts' kinds."""

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        names = ("src", "href", "action", "data", "poster", "srcset", "background", "formaction")
        self.asked += [values[name] for name in names if values.get(name)]
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in values if name.startswith("on")]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]


def check_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links.asked)
    assert links.policy.startswith("default-src 'none'")
    assert not re.search(
        r"https?:|url\(|@import|\bfetch\(|XMLHttpRequest|sendBeacon|\bimport\(", text
    )


MARKUP = '<img src=x onerror="alert(1)"></script><!--<script>'


def test_reports_ask_for_nothing_and_obey_no_patient(tmp_path):
    run = make_run(tmp_path / "run", {MARKUP: (16, 0), "../../x": (12, 12), "..": (20, 20)})
    page = write_report([run], run / "report.html")
    check_page(page)
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
    assert "\\u003cimg src=x" in text  # in the viewer's JSON
    figures = [path.name for path in (run / "figures").iterdir()]
    assert all(re.fullmatch(r"[\w-][\w.-]*\.png", name) for name in figures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run_images"]


def test_the_figures_of_a_foreign_run_stay_in_its_folder(tmp_path):
    run = make_run(tmp_path / "run", {"a": (20, 12), "b": (20, 20), "c": (16, 16)})
    evil = "../../../evil"
    for name in ("results.json", "cases.csv"):
        path = run / name
        path.write_text(path.read_text().replace("pre_dwi", evil))
    write_report([run], run / "report.html")
    assert not list(tmp_path.rglob("evil*"))
    assert not list(tmp_path.parent.glob("evil*"))
    assert all(path.suffix == ".png" for path in (run / "figures").iterdir())


# The network


@pytest.fixture
def no_network(monkeypatch):
    """Fails every connection but those within the machine's own files, and lists them."""
    asked: list[str] = []

    def refuse(self_or_host, address=None, *args, **options):
        if getattr(self_or_host, "family", None) == getattr(socket, "AF_UNIX", -1):
            raise AssertionError("a local socket")
        asked.append(str(address or self_or_host))
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return asked


def test_no_step_asks_the_network(tmp_path, monkeypatch, no_network):
    cohort = make_cohort(tmp_path / "images")
    assert cohort_command.main(["check", str(cohort)]) == 0
    mesh = parallel.make_mesh(1)
    monkeypatch.setattr(parallel, "make_mesh", lambda *_: mesh)
    monkeypatch.setattr(parallel, "use_compile_cache", lambda cache: None)
    config, run = tiny_config(cohort, tmp_path / "cache"), tmp_path / "run"
    config.train.steps = 2
    experiment.run(config, run)
    scan = next((tmp_path / "images").glob("*_image.nii.gz"))
    words = ["--run", str(run), "--image", str(scan), "--out", str(tmp_path / "m.nii.gz")]
    assert predict_command.main(words) == 0
    shutil.rmtree(run / "figures")
    report_command.main([str(run)])
    check_page(run / "report.html")
    assert no_network == []


def test_weights_from_the_network_only_when_asked_for(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="no such file"):
        torch_weights.critic_tensors(str(tmp_path / "x.safetensors"))
    assert no_network == []
