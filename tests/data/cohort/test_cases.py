"""cohort.csv: what is read, how patients are split, and what each wrong file is told."""

from pathlib import Path

import pytest

from crlm_jax.data.cohort.cases import read_cohort, read_images, with_validation_trained
from crlm_jax.data.cohort.rows import CohortError, ImageRow, read_rows

HEADER = "patient,condition,image,mask"


def write(folder: Path, lines: list[str], name: str = "cohort.csv") -> Path:
    """Writes a cohort file and an empty file for every path in it that begins with 'im' or 'ma'."""
    for line in lines[1:]:
        for cell in line.split(","):
            if cell.strip().startswith(("im", "ma")):
                (folder / cell.strip()).touch()
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(patients: int, condition: str = "ct") -> list[str]:
    return [f"p{i:02},{condition},im_{condition}{i},ma_{condition}{i}" for i in range(patients)]


def splits(cases) -> dict[str, str]:
    return {case.patient: case.split for case in cases}


def refuse(path: Path, *parts: str, conditions=("ct",), **options) -> str:
    """Asserts that reading fails with a message that holds all parts, and changes no file."""
    before = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    with pytest.raises(CohortError) as caught:
        read_cohort(path, conditions=conditions, **options)
    message = str(caught.value)
    for part in (path.name, *parts):
        assert part in message
    after = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    assert before == after
    return message


def test_reads_images_in_file_order_with_labels_and_rows(tmp_path):
    path = write(
        tmp_path,
        [
            HEADER + ",mask_label,split,comment",
            "b,ct,im1,ma1,2,train,",
            "a,ct,im2,ma2,,test,x",
            "",
            "b, ct ,im3,ma3,,train,",
            "b,dwi,im4,ma4,,train,",
            ",,,,,,",
        ],
    )
    cases = read_cohort(path, conditions=["ct"], validation_fraction=0)
    assert [(c.patient, c.condition, c.split) for c in cases] == [
        ("b", "ct", "train"),
        ("a", "ct", "test"),
    ]
    first, second = cases[0].images
    assert (first.image, first.masks) == (tmp_path / "im1", (tmp_path / "ma1",))
    assert (first.mask_label, first.row) == (2, 2)
    assert (second.image.name, second.mask_label, second.row) == ("im3", None, 5)


def test_byte_order_mark_and_quotes(tmp_path):
    path = write(tmp_path, [HEADER, *rows(4)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"p00", b'"p,00"'))
    assert "p,00" in splits(read_cohort(path, conditions=["ct"]))


def test_split_sizes_are_those_of_the_paper(tmp_path):
    path = write(tmp_path, [HEADER, *rows(111)])
    found = list(splits(read_cohort(path, conditions=["ct"])).values())
    assert found.count("test") == 45  # 66 and 45 of 111
    assert found.count("validation") == 13  # a fifth of 66, rounded
    assert found.count("train") == 53


@pytest.mark.parametrize(("patients", "tests"), [(111, 45), (197, 78)])
def test_a_number_of_test_patients_gives_both_splits_of_the_paper(tmp_path, patients, tests):
    path = write(tmp_path, [HEADER, *rows(patients)])
    doubts = []
    cases = read_cohort(path, conditions=["ct"], test_patients=tests, doubts=doubts)
    found = list(splits(cases).values())
    assert found.count("test") == tests
    assert found.count("train") + found.count("validation") == patients - tests
    assert not doubts
    assert all(case.drawn for case in cases if case.split != "train")


def test_too_few_patients_for_the_papers_number_is_an_error_with_the_remedy(tmp_path):
    path = write(tmp_path, [HEADER, *rows(45)])
    message = refuse(
        path, "test_patients = 45", "45 patients", "--config.data.test_patients=0", test_patients=45
    )
    assert len(message.splitlines()) == 1
    doubts = []
    read_cohort(path, conditions=["ct"], test_patients=40, doubts=doubts)
    assert ["leaves 5 of 45 patients to train on" in doubt for doubt in doubts] == [True]


def test_the_files_split_counts_more_than_a_number_of_test_patients(tmp_path):
    lines = [f"{line},{'test' if i < 3 else 'train'}" for i, line in enumerate(rows(8))]
    path = write(tmp_path, [HEADER + ",split", *lines])
    for number, warned in ((2, 1), (3, 0), (45, 1)):
        doubts = []
        cases = read_cohort(path, conditions=["ct"], test_patients=number, doubts=doubts)
        assert list(splits(cases).values()).count("test") == 3
        assert len(doubts) == warned
        assert all("tests 3 patients, which counts" in doubt for doubt in doubts)
    assert {case.split for case in cases if case.drawn} == {"validation"}


@pytest.mark.parametrize(("patients", "folds"), [(10, 5), (11, 5), (13, 3), (7, 7), (2, 2)])
def test_every_patient_is_tested_in_exactly_one_fold(tmp_path, patients, folds):
    path = write(tmp_path, [HEADER, *rows(patients), *rows(patients, "pre_dwi")])
    tested = []
    for fold in range(1, folds + 1):
        cases = read_cohort(path, conditions=["ct", "pre_dwi"], fold=f"{fold}/{folds}", seed=4)
        found = splits(cases)
        assert len(found) == patients
        tested.append(sorted(p for p, split in found.items() if split == "test"))
        assert found == splits(read_cohort(path, conditions=["ct"], fold=f"{fold}/{folds}", seed=4))
    assert sorted(p for fold in tested for p in fold) == sorted(found)
    sizes = {len(fold) for fold in tested}
    assert max(sizes) - min(sizes) <= 1
    other = read_cohort(path, conditions=["ct"], fold=f"1/{folds}", seed=5)
    again = sorted(p for p, split in splits(other).items() if split == "test")
    assert again != tested[0] or sizes == {1}  # one of a few may be the same by chance


def test_a_fold_that_cannot_be(tmp_path):
    path = write(tmp_path, [HEADER, *rows(4)])
    refuse(path, "5 folds of 4 patients", "or fewer", fold="1/5")
    with pytest.raises(CohortError, match="the second of five"):
        read_cohort(path, conditions=["ct"], fold="2 of 5")
    lines = [f"{line},{'test' if i < 2 else 'train'}" for i, line in enumerate(rows(4))]
    path = write(tmp_path, [HEADER + ",split", *lines])
    refuse(path, "column 'split'", "leave out data.fold", fold="1/2")


def test_validation_patients_may_be_trained_on_too(tmp_path):
    path = write(tmp_path, [HEADER, *rows(10, "ct"), *rows(10, "pre_dwi")])
    cases = read_cohort(path, conditions=["ct", "pre_dwi"])
    without = read_cohort(path, conditions=["ct", "pre_dwi"], validation_fraction=0)
    assert "validation" in splits(cases).values()
    merged = with_validation_trained(cases)
    assert [(c.patient, c.condition, c.split, c.images) for c in merged] == [
        (c.patient, c.condition, c.split, c.images) for c in without
    ]


def test_split_depends_on_seed_and_not_on_row_order(tmp_path):
    lines = rows(20)
    path = write(tmp_path, [HEADER, *lines])
    other = write(tmp_path, [HEADER, *reversed(lines)], "reversed.csv")
    one = splits(read_cohort(path, conditions=["ct"], seed=1))
    assert one == splits(read_cohort(other, conditions=["ct"], seed=1))
    assert one != splits(read_cohort(path, conditions=["ct"], seed=2))


def test_a_patient_is_in_one_split_under_every_condition(tmp_path):
    path = write(tmp_path, [HEADER, *rows(20, "pre_dwi"), *rows(12, "post_dwi"), *rows(20, "ct")])
    each = [
        splits(read_cohort(path, conditions=[c], seed=3)) for c in ("pre_dwi", "post_dwi", "ct")
    ]
    both = read_cohort(path, conditions=["pre_dwi", "post_dwi"], seed=3)
    assert each[0] == each[2] == splits(both)
    assert each[1].items() <= each[0].items()
    assert sorted(c.condition for c in both).count("post_dwi") == 12


def test_validation_patients_come_out_of_the_given_training_patients(tmp_path):
    lines = [f"{line},{'test' if i < 3 else 'train'}" for i, line in enumerate(rows(8))]
    path = write(tmp_path, [HEADER + ",split", *lines])
    found = splits(read_cohort(path, conditions=["ct"]))
    assert [found[f"p{i:02}"] for i in range(3)] == ["test"] * 3
    assert list(found.values()).count("validation") == 1
    none = splits(read_cohort(path, conditions=["ct"], validation_fraction=0))
    assert "validation" not in none.values()


def test_validation_patients_of_the_file_are_the_validation_patients(tmp_path):
    given = ["Train", "validation", "test", "train", "train", "val", "TEST", "train"]
    lines = [f"{line},{split}" for line, split in zip(rows(8), given, strict=True)]
    path = write(tmp_path, [HEADER + ",split", *lines])
    for fraction in (0, 0.2, 0.9):
        found = splits(read_cohort(path, conditions=["ct"], validation_fraction=fraction))
        assert list(found.values()).count("train") == 4
        assert {p for p, s in found.items() if s == "validation"} == {"p01", "p05"}
        assert {p for p, s in found.items() if s == "test"} == {"p02", "p06"}


def test_validation_patients_are_no_others(tmp_path):
    lines = ["a,x,im1,ma1,train", "a,y,im2,ma2,validation", "b,x,im3,ma3,test"]
    path = write(tmp_path, [HEADER + ",split", *lines])
    refuse(
        path,
        "patient 'a' is 'train' in row 2 and 'validation' in row 3",
        conditions=["x"],
    )


def test_an_image_without_tumour_needs_no_mask(tmp_path):
    header = HEADER + ",Tumour"
    lines = ["a,ct,im1,ma1,yes", "b,ct,im2,,no", "c,ct,im3,ma3,", "d,ct,im4,ma4,No"]
    path = write(tmp_path, [header, *lines])
    found = {
        case.patient: ([mask.name for mask in image.masks], image.tumour)
        for case in read_cohort(path, conditions=["ct"])
        for image in case.images
    }
    assert found == {
        "a": (["ma1"], True),
        "b": ([], False),
        "c": (["ma3"], None),
        "d": (["ma4"], False),
    }
    lines = ["a,ct,im1,,", "b,ct,im2,,yes", "c,ct,im3,ma3,perhaps"]
    message = refuse(
        write(tmp_path, [header, *lines]),
        "row 2, column 'mask': empty; fill the cell, or write 'no' in the column 'tumour'",
        "row 3, column 'mask': empty; fill the cell, or write 'no' in the column 'tumour'",
        "row 4, column 'tumour': 'perhaps' is not 'yes' or 'no'",
    )
    assert len(message.splitlines()) == 3


def test_one_training_patient_stays_in_training(tmp_path):
    path = write(tmp_path, [HEADER, *rows(2)])
    found = splits(read_cohort(path, conditions=["ct"]))
    assert sorted(found.values()) == ["test", "train"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["the file is empty", "write the header patient,condition,image,mask"]),
        (b"\n\n,,\n", ["the file is empty"]),
        (HEADER.encode(), ["no rows below the header", "add one row an image"]),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", ["not UTF-8 text", "save it as UTF-8"]),
        (b"patient\0", ["not a text file", "save it as UTF-8"]),
        (HEADER.encode() + b'\na,ct,"im1,ma1\n', ["not readable as CSV", "save it"]),
        (b"patient|condition|image|mask\na|b|c|d\n", ["row 1", "separate the cells with commas"]),
    ],
)
def test_unusable_files(tmp_path, content, parts):
    path = tmp_path / "cohort.csv"
    path.write_bytes(content)
    refuse(path, *parts)


def test_absent_file(tmp_path):
    with pytest.raises(CohortError, match=r"none\.csv: cohort file not found; correct the path"):
        read_cohort(tmp_path / "none.csv", conditions=["ct"])


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("patient,condition,image", ["row 1, column 'mask': missing; add it"]),
        ("patient,condition,image,image,mask", ["column 'image': stands 2 times; keep one"]),
        ("patient,condition,images,mask", ["column 'images': unknown; rename it to 'image'"]),
        (HEADER + ",Mask Labels", ["column 'Mask Labels': unknown; rename it to 'mask_label'"]),
        (HEADER + ",MASK", ["column 'mask': stands 2 times; keep one"]),
        (HEADER + ",spilt", ["column 'spilt': unknown; rename it to 'split'"]),
    ],
)
def test_wrong_header(tmp_path, header, parts):
    path = write(tmp_path, [header, ",".join("x" for _ in header.split(","))])
    refuse(path, *parts)


def test_extra_columns_are_ignored(tmp_path):
    path = write(tmp_path, [HEADER + ",patient_id,age", *(f"{row},7,70" for row in rows(3))])
    assert len(read_cohort(path, conditions=["ct"])) == 3


def test_every_wrong_row_is_listed_at_once(tmp_path):
    path = write(
        tmp_path,
        [
            HEADER + ",mask_label,split",
            "a,ct,im1,ma1,,train",
            "b,ct,gone/b.nii.gz,ma2,,train",
            "c,Pre-DWI,im3,ma3,,train",
            "d,ct,im4,ma4,1.0,train",
            ",ct,im5,ma5,0,train",
            "f,ct,im6,im6,,trian",
            "g,ct,im7,ma7,,vakidation",
            "h,ct,im8",
        ],
    )
    message = refuse(
        path,
        "row 3, column 'image': file not found: gone/b.nii.gz; correct the path (relative to the "
        "folder of the cohort file)",
        "row 4, column 'condition': 'Pre-DWI' is not lower-case",
        "write 'pre_dwi'",
        "row 5, column 'mask_label': '1.0' is not an integer; write the label",
        "row 6, column 'patient': empty; fill the cell",
        "row 6, column 'mask_label': 0 is background; write a label above 0",
        "row 7, column 'mask': the same file as the image",
        "row 7, column 'split': 'trian' is not 'train', 'validation' or 'test'; write 'train'",
        "row 8, column 'split': 'vakidation' is not 'train', 'validation' or 'test'; write 'vali",
        "row 9: 3 cells under 6 columns; correct the commas",
    )
    assert len(message.splitlines()) == 9
    assert "row 2" not in message


def test_a_folder_can_be_an_image_but_not_a_mask(tmp_path):
    (tmp_path / "series").mkdir()
    path = write(tmp_path, [HEADER, "a,ct,series,ma1", "b,ct,im2,ma2"])
    images = [case.images[0].image for case in read_cohort(path, conditions=["ct"])]
    assert tmp_path / "series" in images
    path = write(tmp_path, [HEADER, "a,ct,im1,series"])
    refuse(path, "row 2, column 'mask': not a file: series; correct the path")


def test_b_values_and_labels_in_words(tmp_path):
    header = HEADER + ",mask_label,b_value"
    lines = ["a,dwi,im1,ma1.dcm,Tumor*,1000", "a,dwi,im1,ma1.DCM,3,0.5", "b,dwi,im2,ma2,,"]
    path = write(tmp_path, [header, *lines])
    cases = read_cohort(path, conditions=["dwi"])
    found = {case.patient: [(p.mask_label, p.b_value) for p in case.images] for case in cases}
    assert found == {"a": [("Tumor*", 1000.0), (3, 0.5)], "b": [(None, None)]}
    assert isinstance(found["a"][1][0], int)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "b1000"])
def test_wrong_b_value(tmp_path, text):
    path = write(tmp_path, [HEADER + ",b_value", f"a,dwi,im1,ma1,{text}"])
    refuse(
        path, f"row 2, column 'b_value': {text!r} is not a number of s/mm²", "correct or clear it"
    )


def test_same_image_and_b_value_twice(tmp_path):
    lines = ["a,dwi,im1,ma1,0", "a,dwi,im1,ma2,800", "a,dwi,im1,ma3,800.0"]
    path = write(tmp_path, [HEADER + ",b_value", *lines])
    message = refuse(path, "row 4, column 'image': im1 stands already in row 3", "delete one")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("mask", "label", "part"),
    [
        ("ma1", "Tumor*", "'Tumor*' is not an integer; write the label"),
        ("ma1.dcm", "0", "0 is background; write a label above 0"),
        ("ma1.dcm", "-2", "-2 is background; write a label above 0"),
    ],
)
def test_wrong_label(tmp_path, mask, label, part):
    path = write(tmp_path, [HEADER + ",mask_label", f"a,ct,im1,{mask},{label}"])
    refuse(path, f"row 2, column 'mask_label': {part}")


def test_images_to_predict_need_no_masks(tmp_path):
    (tmp_path / "im_series").mkdir()
    path = tmp_path / "new.csv"
    path.write_text("condition,image,patient,b_value\ndwi,im_series,a,800\ndwi,im_series,a,\n")
    expected = ImageRow("a", "dwi", tmp_path / "im_series", 800.0, 2)
    assert read_images(path)[0] == expected
    assert [(i.row, i.b_value) for i in read_images(path)] == [(2, 800.0), (3, None)]


def test_images_to_predict_may_have_masks_of_any_kind(tmp_path):
    lines = ["a,ct,im1,gone,lesion,maybe", "b,ct,im2,,,train"]
    path = write(tmp_path, [HEADER + ",mask_label,split", *lines])
    assert [type(image) for image in read_images(path)] == [ImageRow, ImageRow]
    assert [image.patient for image in read_images(path)] == ["a", "b"]


def test_wrong_images_to_predict_are_listed_at_once(tmp_path):
    lines = ["a,CT,im1,x,1", ",ct,gone,x,1", "c,ct,im3,x,-1", "d,ct,im1,x,1"]
    path = write(tmp_path, ["patient,condition,image,mask,b_value", *lines])
    with pytest.raises(CohortError) as caught:
        read_images(path)
    assert [line.split(": ", 1) for line in str(caught.value).splitlines()] == [
        [
            f"{path}, row 2, column 'condition'",
            "'CT' is not lower-case letters, digits and _; write 'ct'",
        ],
        [f"{path}, row 3, column 'patient'", "empty; fill the cell or delete the row"],
        [
            f"{path}, row 3, column 'image'",
            "file not found: gone; correct the path (relative to the folder of the cohort file)",
        ],
        [
            f"{path}, row 4, column 'b_value'",
            "'-1' is not a number of s/mm², 0 or above; correct or clear it",
        ],
    ]
    path.write_text("patient,condition,images\na,ct,im1\n")
    with pytest.raises(CohortError, match="'images': unknown; rename it to 'image'"):
        read_images(path)


def test_same_image_twice(tmp_path):
    path = write(tmp_path, [HEADER, "a,ct,im1,ma1", "b,ct,im2,ma2", "a,ct,./im1,ma3"])
    refuse(path, "row 4, column 'image': im1 stands already in row 2", "delete one of the two rows")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("1.20E+11", "format the column as text"), ("1e+20", "format the column as text"),
        ("9.9E10", "has rounded"), ("#N/A", "error of a spreadsheet"), ("#BEZUG!", "error of a"),
        ("#####", "error of a"), ("nan", "a missing value"), ("NULL", "a missing value"),
        ("NA", "a missing value"),
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_patient(tmp_path, name, why):
    path = write(tmp_path, [HEADER, f"{name},ct,im1,ma1", f"{name},ct,im2,ma2"])
    message = refuse(path, f"row 2, column 'patient': {name!r}", why)
    assert len(message.splitlines()) == 2


def test_names_that_only_look_like_numbers_are_names(tmp_path):
    names = ["1E5", "12E3", "E+11", "#12", "Nan Li", "0017", "120000000000"]
    lines = [f"{name},ct,im{i},ma{i}" for i, name in enumerate(names)]
    path = write(tmp_path, [HEADER, *lines])
    assert [row.patient for row in read_images(path)] == names


def test_a_missing_condition_in_words(tmp_path):
    path = write(tmp_path, [HEADER, "a,nan,im1,ma1"])
    refuse(path, "row 2, column 'condition': 'nan' stands for a missing value", conditions=["nan"])


def test_one_image_under_two_conditions(tmp_path):
    lines = ["a,pre_dwi,im1,ma1,", "a,post_dwi,./im1,ma2,", "b,pre_dwi,im2,ma3,"]
    path = write(tmp_path, [HEADER + ",b_value", *lines])
    refuse(
        path,
        "row 3, column 'image': im1 is also under the condition 'pre_dwi' in row 2",
        "correct the condition or the path",
        conditions=["pre_dwi"],
    )
    lines = ["a,dwi_low,im1,ma1,50", "a,dwi,im1,ma2,800", "b,dwi,im2,ma3,"]  # one file of several
    path = write(tmp_path, [HEADER + ",b_value", *lines])
    assert read_rows(path)[1] == []


def test_one_image_under_two_patients(tmp_path):
    path = write(tmp_path, [HEADER, "a,ct,im1,ma1", "b,ct,im1,ma2"])
    refuse(path, "row 3, column 'image': im1 is also patient 'a''s in row 2", "correct the patient")


def test_split_in_some_rows_only(tmp_path):
    path = write(
        tmp_path, [HEADER + ",split", "a,ct,im1,ma1,train", "b,ct,im2,ma2,", "c,ct,im3,ma3,"]
    )
    refuse(path, "column 'split': empty in rows 3, 4 but given in row 2", "every row or in none")


def test_one_patient_in_both_splits(tmp_path):
    path = write(
        tmp_path,
        [HEADER + ",split", "a,x,im1,ma1,train", "a,y,im2,ma2,test", "b,x,im3,ma3,test"],
    )
    refuse(
        path,
        "column 'split': patient 'a' is 'train' in row 2 and 'test' in row 3",
        "put all rows of a patient in one split",
        conditions=["x"],
    )


@pytest.mark.parametrize("empty", ["train", "test"])
def test_empty_train_or_test_set(tmp_path, empty):
    other = "test" if empty == "train" else "train"
    path = write(tmp_path, [HEADER + ",split", *(f"{row},{other}" for row in rows(3))])
    refuse(path, "column 'split'", f"no {empty} case is left for ct", "add patients")


def test_conditions_that_are_not_there(tmp_path):
    path = write(tmp_path, [HEADER, *rows(3, "pre_dwi"), *rows(3, "ct")])
    refuse(
        path,
        "column 'condition': no row with pre_dvi (did you mean 'pre_dwi'?)",
        "the conditions there are: ct, pre_dwi",
        conditions=["pre_dvi"],
    )
    refuse(path, "no row with mri", conditions=["ct", "mri"])
    refuse(path, "no train case is left", conditions=[])


def test_real_cohort(shared):
    cases = read_cohort(shared / "data" / "cohort.csv", conditions=["ct"])
    assert len(cases) == 11
    assert {case.patient for case in cases} >= {"lits-117", "msd-11485"}
    assert sum(len(case.images) for case in cases) == 25


def test_a_mask_may_be_several_files(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"ma{number}").touch()
        (tmp_path / f"im{number}").touch()
    path = tmp_path / "cohort.csv"
    lines = ["a,ct,im1,ma1|ma2", "b,ct,im2,ma[12]", "c,ct,im3,ma1 | ma?"]
    path.write_text("\n".join([HEADER, *lines]))
    found = {case.patient: case.images[0].masks for case in read_cohort(path, conditions=["ct"])}
    one, two, three = (tmp_path / f"ma{number}" for number in (1, 2, 3))
    assert found["a"] == found["b"] == (one, two)
    assert found["c"] == (one, two, three)
    lines = ["a,ct,im1,ma1|none", "b,ct,im2,no*", "c,ct,im3,ma1|im3"]
    path.write_text("\n".join([HEADER, *lines]))
    refuse(
        path,
        f"row 2, column 'mask': file not found: {tmp_path / 'none'}; correct the path",
        "row 3, column 'mask': file not found: no*; correct the path",
        "row 4, column 'mask': the same file as the image: ma1|im3",
    )


def test_several_files_are_spelt_as_other_paths_are(tmp_path, monkeypatch):
    folder = tmp_path / "a [1]"  # is no pattern
    (folder / "sub").mkdir(parents=True)
    for name in ("im1", "sub/ma1", "sub/ma2"):
        (folder / name).touch()
    monkeypatch.setenv("CRLM_MASKS", str(folder / "sub"))
    monkeypatch.setenv("HOME", str(folder))
    both = (folder / "sub" / "ma1", folder / "sub" / "ma2")
    path = folder / "cohort.csv"
    spelt = [
        "$CRLM_MASKS/ma1|$CRLM_MASKS/ma2",
        r"sub\ma*",
        "~/sub/ma2|~/sub/ma?",
        r"sub\ma1|sub/ma2",
    ]
    for cell in spelt:
        path.write_text("\n".join([HEADER, f"a,ct,im1,{cell}"]))
        (row,), problems = read_rows(path)
        assert (sorted(row.masks), problems) == (list(both), [])
    path.write_text("\n".join([HEADER, r"a,ct,im1,ma1|D:\x\sub\ma1"]))
    refuse(path, "row 2, column 'mask': a path of Windows", "such as sub/ma1")


@pytest.mark.parametrize("label", ["Tumor*", "lesions", "2"])
def test_a_label_without_a_mask_does_nothing(tmp_path, label):
    header = HEADER + ",mask_label,tumour"
    path = write(tmp_path, [header, f"a,ct,im1,,{label},no", "b,ct,im2,ma2,,"])
    (case,) = (c for c in read_cohort(path, conditions=["ct"]) if c.patient == "a")
    assert case.images[0].masks == ()


@pytest.mark.parametrize("label", ["lesions", "1, 2", "12,3"])
def test_labels_of_a_map(tmp_path, label):
    path = write(tmp_path, [HEADER + ",mask_label", f'a,ct,im1,ma1,"{label}"', "b,ct,im2,ma2,1"])
    (case,) = (c for c in read_cohort(path, conditions=["ct"]) if c.patient == "a")
    assert case.images[0].mask_label == label
