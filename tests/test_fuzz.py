"""Damaged cohort files, configurations, checkpoints and weights; see `tests/fuzzing.py`."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from crlm_jax.config.schema import Config, ConfigError
from crlm_jax.config.storage import to_json
from crlm_jax.data.cohort.cases import read_cohort, read_images
from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.errors import UserError
from crlm_jax.measures.view import CaseView, Layer, Mark
from crlm_jax.method.checkpoint import CheckpointError, Checkpoints
from crlm_jax.models import transunet_weights
from crlm_jax.models.torch_weights import WeightsError, load_safetensors
from crlm_jax.runs.folder import read_run
from tests.fuzzing import fuzz, mutated, snapshot, taken_or_refused

# Cohort files

ROWS = (
    "patient,condition,image,mask,mask_label,b_value,split,tumour\n"
    "p1,pre_dwi,a.nii.gz,am.nii.gz,1,800,train,\n"
    "p2,pre_dwi,b.nii.gz,,,,test,no\n"
    '"p3, ä",ct,c.nii.gz,cm.nii.gz,2,,test,yes\n'
)
FORMS = [  # in which spreadsheets save them
    ROWS.encode(encoding) for encoding in ("utf-8", "cp1252", "utf-16", "utf-16-le", "utf-32")
] + [
    f"sep={sign}\r\n{ROWS.replace(', ', '_').replace(',', sign)}".encode() for sign in ",;\t^"
]  # fmt: skip
CELLS = st.one_of(
    st.sampled_from([
        "", " ", "p1", "p2", "=cmd()", "../../x", "a.nii.gz", "am.nii.gz", ".", "/", "/dev/null",
        "x" * 300, "CON", "\u202ep1", "p\n1", "p\x1b[2J", "1e999", "nan", "-1", "9" * 5000, "train",
        "test", "validation", "pre_dwi", "PRE DWI", "ct", '"', '""', "\ufeffpatient", "no", "YES",
        "~/a.nii.gz", "~nobody/x", "$HOME", "$NO_SUCH/x", "${}", "${A B}", "%X%", "~", "$", "%%",
        "C:\\a.nii.gz", "\\\\server\\a.nii.gz", ".\\a.nii.gz", "sep=;", "800,5", "1.000", "'a'",
    ]),
    st.text(max_size=12),
)  # fmt: skip


@pytest.fixture
def cohort(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.nii.gz").touch()
        (tmp_path / f"{name}m.nii.gz").touch()
    return tmp_path / "cohort.csv"


def check_cohort_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    reads = (
        lambda: read_cohort(path, conditions=("pre_dwi",), doubts=[]),
        lambda: read_images(path, []),
    )
    for read in reads:
        taken_or_refused(read, CohortError, path.parent, str(path))


@fuzz(200)
@given(content=st.one_of(st.binary(max_size=200), st.sampled_from(FORMS).flatmap(mutated)))
def test_cohort_bytes(cohort, content):
    check_cohort_file(cohort, content)


@fuzz(300)
@given(
    table=st.lists(st.lists(CELLS, min_size=1, max_size=8), max_size=4),
    keep=st.integers(0, 4),
    quote=st.booleans(),
)
def test_cohort_cells(cohort, table, keep, quote):
    lines = ROWS.splitlines()[:keep]
    for row in table:
        cells = ['"' + cell.replace('"', '""') + '"' if quote else cell for cell in row]
        lines.append(",".join(cells))
    check_cohort_file(cohort, "\n".join(lines).encode(errors="surrogatepass"))


@fuzz(300)
@given(row=st.integers(1, 3), column=st.integers(0, 7), cell=CELLS)
def test_cohort_one_cell(cohort, row, column, cell):
    table = [line.split(",") for line in ROWS.replace('"p3, ä"', "p3").splitlines()]
    table[row][column] = '"' + cell.replace('"', '""') + '"'
    text = "\n".join(map(",".join, table))
    check_cohort_file(cohort, text.encode(errors="surrogatepass"))


# Configurations, checkpoints and weights

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from([0, -1, 1e999, 10**400, "", "../../x", "paper", [], {}, [[1]]]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)  # fmt: skip
CONFIG = json.loads(to_json(Config()))
FIELDS = [
    (name, inner)
    for name, group in CONFIG.items()
    for inner in (group if isinstance(group, dict) else [None])
]


def check_config(run: Path, content: bytes) -> None:
    (run / "config.json").write_bytes(content)
    taken_or_refused(lambda: read_run(run), ConfigError, run, str(run / "config.json"))


@fuzz(200)
@given(content=st.one_of(mutated(to_json(Config()).encode()), st.binary(max_size=60)))
def test_config_bytes(tmp_path, content):
    check_config(tmp_path, content)


@fuzz(300)
@given(field=st.sampled_from(FIELDS), value=JSON, whole=st.booleans())
def test_config_values(tmp_path, field, value, whole):
    values = json.loads(to_json(Config()))
    name, inner = field
    if inner is None or whole:
        values[name] = value
    else:
        values[name][inner] = value
    check_config(tmp_path, json.dumps(values).encode(errors="surrogatepass"))


def state() -> dict:
    return {"segmenter": {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones((2,), jnp.int32)}}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "checkpoints"
    with Checkpoints(folder) as made:
        made.save(3, state(), 0.5)
    return snapshot(folder)


@fuzz(60)
@given(data=st.data())
def test_checkpoint_bytes(checkpoints, tmp_path, data):
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in checkpoints.items():
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    name = data.draw(st.sampled_from([name for name, content in checkpoints.items() if content]))
    (folder / name).write_bytes(data.draw(mutated(checkpoints[name])))

    def read():
        with Checkpoints(folder, saves=False) as found:
            step = found.best
            if step is not None:
                found.load(step, state())

    taken_or_refused(read, CheckpointError, folder, str(folder))


TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "conv.bias": np.ones(2, np.float16),
}


@fuzz(300)
@given(content=st.one_of(mutated(safetensors.numpy.save(TENSORS)), st.binary(max_size=60)))
def test_safetensors(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    taken_or_refused(lambda: load_safetensors(path), WeightsError, tmp_path, str(path))


@st.composite
def safetensors_header(draw) -> bytes:
    """A file whose header, JSON, says anything of the tensors."""
    about = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    key = draw(st.sampled_from([*about, "other"]))
    kinds = ["F8_E4M3", "F8_E5M2", "BF16", "BOOL", "I64", "F4", "E8M0", "", None, 3]
    sizes = st.lists(st.integers(-1, 2**65), max_size=3)
    about[key] = draw(st.one_of(st.sampled_from(kinds), sizes, JSON))
    head = json.dumps({draw(st.sampled_from(["w", "", "__metadata__"])): about}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(draw(st.sampled_from([0, 4, 8, 16, 32])))


@fuzz(300)
@given(content=safetensors_header())
def test_safetensors_header(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    taken_or_refused(lambda: load_safetensors(path), WeightsError, tmp_path, str(path))


@pytest.fixture(scope="module", params=["stored", "deflated"])
def npz(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("npz") / "weights.npz"
    save = np.savez if request.param == "stored" else np.savez_compressed
    save(path, **TENSORS)
    return path.read_bytes()


@fuzz(200)
@given(data=st.data())
def test_npz(npz, tmp_path, data):
    path = tmp_path / "weights.npz"
    path.write_bytes(data.draw(mutated(npz)))
    taken_or_refused(lambda: transunet_weights._read(path), WeightsError, tmp_path, str(path))


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    grey = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    layers = (Layer("reference", "reference", grey > 12), Layer("probability", "map", grey))
    marks = (Mark("one", "reference", 1, 1.0, 1.0),)
    path = tmp_path_factory.mktemp("views") / "0000_000.npz"
    CaseView(
        "p · ct",
        (("DSC", "0.8"),),
        grey,
        (5.0, 0.7, 0.7),
        (-150.0, 250.0),
        "HU",
        layers,
        marks,
        1,
        0.8,
    ).save(path)
    return path.read_bytes()


@fuzz(200)
@given(data=st.data())
def test_view(view, tmp_path, data):
    path = tmp_path / "0000_000.npz"
    path.write_bytes(data.draw(mutated(view)))
    for read in (CaseView.load, CaseView.count_voxels):
        taken_or_refused(lambda read=read: read(path), UserError, tmp_path, str(path))
