"""Folders into cohort.csv: each layout and back, and what each wrong one is told."""

import csv
import json
from pathlib import Path

import pytest

from crlm_jax.data.cohort.cases import read_cohort
from crlm_jax.data.cohort.check import check_cohort
from crlm_jax.data.cohort.command import main
from crlm_jax.system.console import exit_code
from tests.cohorts import make_cohort

OLD = "what was there"


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def cells(path: str = "cohort.csv") -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()[1:]


def build(*options: str) -> int:
    return exit_code(main, ["build", *options])


def refuse(capsys, *options: str, parts: tuple[str, ...], force: bool = True) -> str:
    """Asserts that building fails with all the parts, and that the old file is as it was."""
    Path("cohort.csv").write_text(OLD)
    before = sorted(Path().rglob("*"))
    assert build(*options, *(["--force"] if force else [])) == 1
    out, err = capsys.readouterr()
    for part in parts:
        assert part in err
    assert Path("cohort.csv").read_text() == OLD
    assert sorted(Path().rglob("*")) == before  # no draft is left
    assert out == ""
    return err


PATTERNS = (
    "--images", "data/{patient}/{condition}.nii.gz",
    "--masks", "data/{patient}/{condition}_roi.nii.gz",
)  # fmt: skip


def make_hospital() -> None:
    for patient in ("p01", "p02"):
        for name in ("dwi_before", "T2 after"):
            touch(f"data/{patient}/{name}.nii.gz", f"data/{patient}/{name}_roi.nii.gz")


RENAME = (
    "--rename-condition", "dwi_before=pre_dwi", "--rename-condition", "T2 after=post_t2wi"
)  # fmt: skip


def test_patterns(capsys):
    make_hospital()
    assert build(*PATTERNS, *RENAME, "--label", "2") == 0
    assert cells() == [
        "p01,post_t2wi,data/p01/T2 after.nii.gz,data/p01/T2 after_roi.nii.gz,2,",
        "p01,pre_dwi,data/p01/dwi_before.nii.gz,data/p01/dwi_before_roi.nii.gz,2,",
        "p02,post_t2wi,data/p02/T2 after.nii.gz,data/p02/T2 after_roi.nii.gz,2,",
        "p02,pre_dwi,data/p02/dwi_before.nii.gz,data/p02/dwi_before_roi.nii.gz,2,",
    ]
    out = capsys.readouterr().out
    assert "cohort.csv: 4 images of 2 patients (post_t2wi 2, pre_dwi 2)" in out
    assert "next: python -m crlm_jax.data.cohort check cohort.csv" in out
    cases = read_cohort("cohort.csv", conditions=["pre_dwi", "post_t2wi"])
    assert len(cases) == 4
    assert cases[0].images[0].mask_label == 2


def test_masks_of_the_liver_are_found_beside_the_others(capsys):
    make_hospital()
    touch("data/p01/dwi_before_liver.nii.gz", "data/p01/T2 after_liver.nii.gz",
          "data/p02/T2 after_liver.nii.gz")  # fmt: skip
    pattern = "data/{patient}/{condition}_liver.nii.gz"
    assert build(*PATTERNS, *RENAME, "--livers", pattern) == 0
    assert Path("cohort.csv").read_text().startswith("patient,condition,image,mask,mask_label,spl")
    assert [row.rpartition(",")[2] for row in cells()] == [
        "data/p01/T2 after_liver.nii.gz", "data/p01/dwi_before_liver.nii.gz",
        "data/p02/T2 after_liver.nii.gz", "",
    ]  # fmt: skip
    assert "1 of 4 images have no mask of the liver" in capsys.readouterr().out
    (case,) = (c for c in read_cohort("cohort.csv", conditions=["post_t2wi"]) if c.patient == "p01")
    assert case.images[0].liver == (Path("data/p01/T2 after_liver.nii.gz"),)
    touch("data/p03/dwi_before_liver.nii.gz")
    parts = ("p03/dwi_before_liver.nii.gz: liver without image",)
    refuse(capsys, *PATTERNS, *RENAME, "--livers", pattern, parts=parts)
    parts = ("no file matches --livers",)
    refuse(capsys, *PATTERNS, *RENAME, "--livers", "l/{patient}/{condition}.nii", parts=parts)
    parts = ("{condition} must be in --images and in --livers",)
    refuse(capsys, *PATTERNS, *RENAME, "--livers", "l/{patient}.nii", parts=parts)


def test_built_from_real_files_passes_the_check(tmp_path):
    make_cohort(tmp_path / "scans", patients=4, shape=(2, 12, 12))
    assert build(
        "--images", "scans/{patient:p[0-9]+}_{condition}_image.nii.gz",
        "--masks", "scans/{patient:p[0-9]+}_{condition}_mask.nii.gz",
    ) == 0  # fmt: skip
    assert check_cohort("cohort.csv").problems == ()


def test_more_placeholders_wildcards_and_series():
    touch("a/s1/scan/p1/1.dcm", "a/s1/scan/p1/2.dcm", "seg/s1/p1.dcm", "seg/s2/p2.dcm")
    touch("a/s2/other/deep/p2/1.dcm", "a/s2/other/deep/p2/.DS_Store", "a/s2/._p9")
    Path("a/s2/empty/p3").mkdir(parents=True)
    assert build(
        "--images", "a/{site}/**/{patient:p[0-9]}", "--masks", "seg/{site}/{patient:p[0-9]}.dcm",
        "--condition", "ct", "--label", "Tumor*",
    ) == 0  # fmt: skip
    assert cells() == [
        "p1,ct,a/s1/scan/p1,seg/s1/p1.dcm,Tumor*,",
        "p2,ct,a/s2/other/deep/p2,seg/s2/p2.dcm,Tumor*,",
    ]
    pair = read_cohort("cohort.csv", conditions=["ct"])[0].images[0]
    assert pair.mask_label == "Tumor*"
    assert pair.image.is_dir()


def test_split_from_the_names():
    touch("train/p1.nii", "train/p1_m.nii", "test/p2.nii", "test/p2_m.nii")
    options = "--images", "{split:train|test}/{patient}.nii", "--masks", "{split}/{patient}_m.nii"
    assert build(*options, "--condition", "ct") == 0
    assert {c.patient: c.split for c in read_cohort("cohort.csv", conditions=["ct"])} == {
        "p1": "train",
        "p2": "test",
    }


def test_paths_are_relative_to_the_file_through_links(tmp_path):
    touch("data/x,1/im.nii", "data/x,1/m.nii")
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    Path("data/x,1/linked.nii").symlink_to(tmp_path / "data" / "x,1" / "im.nii")
    assert build(
        "--images", str(tmp_path / "data/{patient}/linked.nii"),
        "--masks", str(tmp_path / "data/{patient}/m.nii"),
        "--condition", "ct", "--out", "link/cohort.csv",
    ) == 0  # fmt: skip
    assert cells("far/away/cohort.csv") == [
        '"x,1",ct,"../../data/x,1/linked.nii","../../data/x,1/m.nii",,'
    ]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--images", "data/{patient}.nii"), ["--images needs --masks"]),
        (
            ("--images", "d/{patient}_{slice}.png", "--masks", "m/{patient}.png"),
            ["{slice} must be in --images and in --masks"],
        ),
        (("--images", "d/{x}.png", "--masks", "m/{x}.png"), ["{patient} must be in"]),
        (("--images", "d/{}.png", "--masks", "m/{x}.png"), ["'{' has no meaning here; write {na"]),
        (("--images", "d/{patient:(}.png", "--masks", "m/{patient}"), ["a wrong regular exp"]),
        (
            ("--images", "none/{patient}/{condition}.nii", "--masks", PATTERNS[3]),
            [
                "no file matches --images 'none/{patient}/{condition}.nii'",
                "there is no folder none; . has, for example: ",
                "data/p01/T2 after.nii.gz",
            ],
        ),
        (
            (PATTERNS[0], PATTERNS[1], "--masks", "data/{patient}/{condition}_x.nii.gz"),
            ["no file matches --masks", "data has, for example: p01/T2 after.nii.gz"],
        ),
        (
            PATTERNS,
            ["letters, digits and _: T2 after; add --rename-condition 'T2 after=t2_after'"],
        ),
        (
            (*PATTERNS, "--rename-condition", "dwi=pre_dwi"),
            ["--rename-condition 'dwi=pre_dwi'", "conditions found are: T2 after, dwi_before"],
        ),
        ((*PATTERNS, "--condition", "ct"), ["--condition and {condition} in --images"]),
        ((*PATTERNS, "--label", "tumour"), ["--label 'tumour': write the number"]),
        ((*PATTERNS, "--channel", "0"), ["--channel goes with --nnunet, not with --images"]),
        ((*PATTERNS, "--patient-pattern", "x"), ["--patient-pattern goes with --decathlon or"]),
        (
            ("--images", "data/{patient}/*_before.nii.gz", "--masks", "data/{patient}/*_roi.nii*"),
            ["give --condition once, such as --condition ct: --images has no {condition}"],
        ),
        (
            (
                "--images", "data/{patient}/*.nii.gz", "--masks",
                "data/{patient}/dwi_before_roi.nii.gz", "--condition", "ct",
            ),
            ["data/p01/T2 after.nii.gz and data/p01/T2 after_roi.nii.gz are both patient 'p01'"],
        ),
        ((*PATTERNS, *RENAME, "--out", "no/cohort.csv"), ["there is no folder no; make it"]),
        ((*PATTERNS, *RENAME, "--out", "data"), ["--out data: is a folder; name the file"]),
    ],
)  # fmt: skip
def test_wrong_patterns(capsys, options, parts):
    make_hospital()
    refuse(capsys, *options, parts=parts)


def test_names_that_can_be_read_in_two_ways(capsys):
    touch("d/p_1_pre_dwi.nii", "m/p_1_pre_dwi.nii")
    options = ("--images", "d/{patient}_{condition}.nii", "--masks", "m/{patient}_{condition}.nii")
    parts = ("m/p_1_pre_dwi.nii can be read in two ways", "patient 'p', condition '1_pre_dwi'")
    refuse(capsys, *options, parts=(*parts, "say what a name looks like, as in {patient:p[0-9]+}"))


def test_nothing_is_replaced_without_force(capsys):
    make_hospital()
    parts = ("--out cohort.csv: is there already; name another, or --force",)
    refuse(capsys, *PATTERNS, *RENAME, parts=parts, force=False)
    assert build(*PATTERNS, *RENAME, "--force") == 0
    assert len(cells()) == 4


def test_patients_that_differ_in_case_only(capsys):
    touch("d/P1.nii", "d/P1_m.nii", "d/p1.nii", "d/p1_m.nii")
    options = "--images", "d/{patient}.nii", "--masks", "d/{patient}_m.nii", "--condition", "ct"
    refuse(capsys, *options, parts=("upper and lower case only: P1, p1; rename",))


def test_what_the_row_checks_find_is_not_written(capsys):
    touch("train/p1.nii", "train/p1_m.nii", "late/p1.nii", "late/p1_m.nii")
    touch("test/p1.nii", "test/p1_m.nii")
    options = "--images", "{split}/{patient}.nii", "--masks", "{split}/{patient}_m.nii"
    where = "cohort.csv (not written), "
    err = refuse(capsys, *options, "--condition", "ct", parts=(f"{where}row 2, column 'split'",))
    assert "draft" not in err


def test_files_without_a_partner(capsys):
    make_hospital()
    touch("data/p03/dwi_before.nii.gz", "data/p04/dwi_before_roi.nii.gz")
    parts = (
        "data/p03/dwi_before.nii.gz: image without mask",
        "data/p04/dwi_before_roi.nii.gz: mask without image",
        "--skip-unpaired",
    )
    refuse(capsys, *PATTERNS, *RENAME, parts=parts)
    touch(*(f"data/q{i:02}/dwi_before.nii.gz" for i in range(20)))
    err = refuse(capsys, *PATTERNS, *RENAME, parts=("… 22 in all",))
    assert len(err.splitlines()) == 12
    assert build(*PATTERNS, *RENAME, "--force", "--skip-unpaired") == 0
    assert len(cells()) == 4
    assert "22 without a partner left out" in capsys.readouterr().out


def test_nothing_left_to_write(capsys):
    touch("d/p1.nii", "m/p2.nii")
    options = "--images", "d/{patient}.nii", "--masks", "m/{patient}.nii", "--condition", "ct"
    refuse(capsys, *options, "--skip-unpaired", parts=("no image has a mask; nothing is written",))


def make_nnunet(*, tests: bool = False, channels: int = 1, **about) -> None:
    names = dict(zip("01", ("DWI", "T2"), strict=True))
    about = {
        "channel_names": dict(list(names.items())[:channels]),
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "file_ending": ".nii.gz",
    } | about
    for kind, cases in {"Tr": "ab", "Ts": "c"}.items():
        for case in cases:
            touch(*(f"raw/images{kind}/{case}_1_000{i}.nii.gz" for i in range(channels)))
            if kind == "Tr" or tests:
                touch(f"raw/labels{kind}/{case}_1.nii.gz")
    Path("raw/dataset.json").write_text(json.dumps(about))


NNUNET = ("--nnunet", "raw", "--condition", "ct")


def test_nnunet(capsys):
    make_nnunet()
    assert build(*NNUNET, "--label", "Tumour") == 0
    assert cells() == [
        "a_1,ct,raw/imagesTr/a_1_0000.nii.gz,raw/labelsTr/a_1.nii.gz,2,",
        "b_1,ct,raw/imagesTr/b_1_0000.nii.gz,raw/labelsTr/b_1.nii.gz,2,",
    ]
    out = capsys.readouterr().out
    assert "EACH CASE IS TAKEN FOR A PATIENT OF ITS OWN (a_1, …)" in out
    assert "1 files in imagesTs have no masks" in out
    assert len(read_cohort("cohort.csv", conditions=["ct"])) == 2


def test_nnunet_with_tests_channels_and_version_1(capsys):
    labels = {"0": "background", "1": "liver", "2": "tumour"}
    make_nnunet(tests=True, channels=2, labels=labels, modality={"0": "DWI", "1": "T2"})
    about = json.loads(Path("raw/dataset.json").read_text())
    del about["channel_names"], about["file_ending"]
    Path("raw/dataset.json").write_text(json.dumps(about))
    options = "--nnunet", "raw", "--condition", "pre_dwi", "--condition", "pre_t2wi"
    pattern = "--patient-pattern", r"(?P<patient>\w)_\d"
    assert build(*options, *pattern, "--label", "2") == 0
    assert cells()[-2:] == [
        "c,pre_dwi,raw/imagesTs/c_1_0000.nii.gz,raw/labelsTs/c_1.nii.gz,2,test",
        "c,pre_t2wi,raw/imagesTs/c_1_0001.nii.gz,raw/labelsTs/c_1.nii.gz,2,test",
    ]
    assert "EACH CASE" not in capsys.readouterr().out
    assert len(read_cohort("cohort.csv", conditions=["pre_dwi", "pre_t2wi"])) == 6
    assert build(*NNUNET, "--channel", "1", "--label", "liver", "--force") == 0
    assert cells()[0] == "a_1,ct,raw/imagesTr/a_1_0001.nii.gz,raw/labelsTr/a_1.nii.gz,1,train"


@pytest.mark.parametrize(
    ("labels", "label", "cell"),
    [
        ({"background": 0, "lesion": 1}, None, "1"),
        ({"background": 0, "whole": [1, 2], "core": [2]}, "whole", "1,2"),
        ({"background": 0, "whole": [1, 2], "core": [2]}, "core", "2"),
        ({"background": 0, "lesion": 1, "ignore": 2}, None, "1"),
    ],
)
def test_nnunet_labels(labels, label, cell):
    make_nnunet(labels=labels)
    assert build(*NNUNET, *(("--label", label) if label else ())) == 0
    assert [row[4] for row in csv.reader(cells())] == [cell, cell]


@pytest.mark.parametrize(
    ("about", "options", "parts"),
    [
        ({}, (), ["which label is tumour?", "has: 1 liver, 2 tumour; add --label"]),
        ({}, ("--label", "tumor"), ["--label 'tumor' (did you mean 'tumour'?)", "1 liver, 2 tum"]),
        ({}, ("--label", "3"), ["--label '3': the labels of raw/dataset.json are: 1 liver"]),
        ({"labels": ["liver"]}, (), ["'labels' is not a map of names and numbers"]),
        ({"channels": 2}, (), ["2 channels and 1 conditions", "0 DWI, 1 T2", "--channel N"]),
        ({}, ("--channel", "7"), ["--channel 7: the channels in raw/dataset.json are: 0 DWI"]),
        ({"channel_names": None}, (), ["no 'channel_names'; give the folder of a raw nnU-Net"]),
        (
            {"file_ending": ".nrrd"},
            ("--label", "2"),
            ["no file is named as raw/imagesTr/CASE_0000.nrrd", "for example: a_1_0000.nii.gz"],
        ),
        (
            {},
            ("--label", "2", "--patient-pattern", r"(?P<patient>x)_\d"),
            ["does not fit 2 of 2 names, for example a_1, b_1"],
        ),
        ({}, ("--label", "2", "--patient-pattern", "(.)_1"), ["no group (?P<patient>…) in it"]),
        ({}, ("--label", "2", "--patient-pattern", "("), ["no regular expression"]),
    ],
)
def test_wrong_nnunet(capsys, about, options, parts):
    make_nnunet(**about)
    refuse(capsys, *NNUNET, *options, parts=parts)


def test_nnunet_case_without_a_channel(capsys):
    make_nnunet(channels=2)
    Path("raw/imagesTr/b_1_0001.nii.gz").unlink()
    options = "--nnunet", "raw", "--condition", "dwi", "--condition", "t2", "--label", "2"
    parts = ("raw/labelsTr/b_1.nii.gz: mask without image of channel 1",)
    refuse(capsys, *options, parts=parts)


@pytest.mark.parametrize("layout", ["--nnunet", "--decathlon"])
def test_no_or_broken_dataset_json(capsys, layout):
    touch("raw/scan.nii")
    options = layout, "raw", "--condition", "ct"
    parts = ("raw/dataset.json: file not found; raw has, for example: scan.nii",)
    refuse(capsys, *options, parts=parts)
    Path("raw/dataset.json").write_text("{")
    refuse(capsys, *options, parts=("raw/dataset.json: not readable as JSON",))
    Path("raw/dataset.json").write_text("[]")
    refuse(capsys, *options, parts=("raw/dataset.json: not a JSON object",))


def make_decathlon(**about) -> None:
    names = ("liver_1", "liver_2")
    about = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names
        ],
        "test": ["./imagesTs/liver_9.nii.gz"],
    } | about
    touch(*(f"task/{kind}Tr/{name}.nii.gz" for kind in ("images", "labels") for name in names))
    Path("task/dataset.json").write_text(json.dumps(about))


DECATHLON = ("--decathlon", "task", "--condition", "ct")


def test_decathlon(capsys):
    make_decathlon()
    assert build(*DECATHLON, "--label", "cancer") == 0
    assert cells() == [
        "liver_1,ct,task/imagesTr/liver_1.nii.gz,task/labelsTr/liver_1.nii.gz,2,",
        "liver_2,ct,task/imagesTr/liver_2.nii.gz,task/labelsTr/liver_2.nii.gz,2,",
    ]
    out = capsys.readouterr().out
    assert "EACH CASE IS TAKEN FOR A PATIENT OF ITS OWN" in out
    assert "1 images under 'test' have no masks and were left out" in out
    assert len(read_cohort("cohort.csv", conditions=["ct"])) == 2


@pytest.mark.parametrize(
    ("about", "parts"),
    [
        ({}, ["which label is tumour? task/dataset.json has: 1 liver, 2 cancer; add --label"]),
        ({"modality": {"0": "T2", "1": "ADC"}}, ["2 channels in one 4D image (T2, ADC); save"]),
        ({"training": []}, ["no list 'training'", "--nnunet for nnU-Net's layout"]),
        ({"training": [{"image": "x"}]}, ["no list 'training'"]),
    ],
)
def test_wrong_decathlon(capsys, about, parts):
    make_decathlon(**about)
    refuse(capsys, *DECATHLON, parts=parts)


def test_decathlon_with_a_file_missing(capsys):
    make_decathlon(labels={"1": "tumour"})
    Path("task/labelsTr/liver_2.nii.gz").unlink()
    parts = ("task/labelsTr/liver_2.nii.gz: named in dataset.json, not found", "--skip-unpaired")
    refuse(capsys, *DECATHLON, parts=parts)
    assert build(*DECATHLON, "--force", "--skip-unpaired") == 0
    assert len(cells()) == 1


def make_released(*names: str) -> None:
    touch(*(f"in/{kind}/{name}.png" for kind in ("images", "masks/0") for name in names))


RELEASED = ("--released", "in", "--condition", "ct")
SLICES = ("p1_1", "p1_2", "p2_1", "p2_10")


def test_released_slices_of_a_patient_are_one_case():
    make_released(*SLICES)
    assert build(*RELEASED, "--patient-pattern", r"(?P<patient>[^_]+)_\d+") == 0
    assert cells()[0] == "p1,ct,in/images/p1_1.png,in/masks/0/p1_1.png,,"
    cases = read_cohort("cohort.csv", conditions=["ct"])
    assert sorted((case.patient, len(case.images)) for case in cases) == [("p1", 2), ("p2", 2)]


def test_released_slices_whose_patients_are_not_told(capsys):
    make_released(*SLICES)
    parts = (
        "which slices are of the same patient?",
        "p1_1, p1_2, p2_1; name",
        "(?P<patient>[^_]+)",
    )
    refuse(capsys, *RELEASED, parts=parts)
    parts = ("each of 4 slices another patient (p1_1 → p1_1, ", "--one-slice-per-patient")
    refuse(capsys, *RELEASED, "--patient-pattern", "(?P<patient>.+)", parts=parts)
    assert build(*RELEASED, "--one-slice-per-patient", "--force") == 0
    assert len(read_cohort("cohort.csv", conditions=["ct"])) == 4
    assert "EACH SLICE IS TAKEN FOR A PATIENT OF ITS OWN" in capsys.readouterr().out


def test_wrong_released(capsys):
    make_released("p1_1", "p1_2")
    pattern = "--patient-pattern", r"(?P<patient>[^_]+)_\d+"
    refuse(capsys, "--released", "in", *pattern, parts=("give --condition once",))
    touch("in/images/p1_1.jpg")
    parts = ("in/images/p1_1.jpg and in/images/p1_1.png differ in their endings only",)
    refuse(capsys, *RELEASED, *pattern, parts=parts)
    Path("in/images/p1_1.jpg").unlink()
    touch("in/images/p1_3.png", "in/masks/0/p1_4.png")
    parts = ("in/images/p1_3.png: image without mask", "in/masks/0/p1_4.png: mask without image")
    refuse(capsys, *RELEASED, *pattern, parts=parts)
    for file in Path("in/masks/0").iterdir():
        file.replace(Path("in/masks") / file.name)
    Path("in/masks/0").rmdir()
    parts = ("there is no folder in/masks/0; in/masks has, for example: p1_1.png",)
    refuse(capsys, *RELEASED, *pattern, parts=parts)


def test_one_layout_has_to_be_chosen(capsys):
    for options in ((), ("--nnunet", "a", "--decathlon", "b")):
        with pytest.raises(SystemExit) as caught:
            build(*options)
        assert caught.value.code == 2
    assert "--decathlon: not allowed with argument --nnunet" in capsys.readouterr().err
