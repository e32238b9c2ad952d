"""The rows of `cohort.csv`; all that is wrong with them is reported at once.

The file has one row an image: ``patient,condition,image,mask`` and optionally ``mask_label`` (what
is tumour in the mask: an integer, a pattern of names such as ``Tumor*``, or ``lesions``; see
`imaging.masks`), ``liver`` (a mask of the liver, see `reference`), ``b_value`` (s/mm², which image
of a diffusion series), ``tumour`` (``yes`` or ``no``; an image without tumour needs no mask) and
``split`` (``train``, ``validation`` or ``test``; absent: drawn, see `cases`). Paths are relative to
the file; an image may be a folder, a DICOM series; a mask may be several files joined by ``|``, or
a pattern. `cells` has the rules of each column, `table` those of the text.

A problem names its row as a spreadsheet numbers it (the header is row 1).
"""

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from crlm_jax.data.cohort.cells import (
    OPTIONAL,
    REQUIRED,
    Cells,
    find_image,
    find_masks,
    parse_b_value,
    parse_condition,
    parse_label,
    parse_patient,
    parse_split,
    parse_tumour,
)
from crlm_jax.data.cohort.doubts import ct_doubts, split_doubts, unread_doubts
from crlm_jax.data.cohort.paths import spelt_path
from crlm_jax.data.cohort.table import CohortError as CohortError
from crlm_jax.data.cohort.table import normal_name, read_table
from crlm_jax.imaging.mask_files import split_masks

# Other names by which a column is called; those that only differ in spelling are found without.
_ALIASES = {
    "mask_label": "label labels tumour_label tumor_label lesion_label seg_label roi_label",
    "liver": "liver_mask liver_seg liver_roi liver_segmentation liver_label_map livers",
    "b_value": "b bval b_val bvals",
    "tumour": "has_tumour has_tumor tumour_present tumor_present with_tumour with_tumor",
}
_MEANT = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_FOR_TRAINING = ("mask", "mask_label", "tumour", "split")  # a prediction does without these columns
_NO_MASK = "empty; fill the cell, or write 'no' in the column 'tumour' if the image shows none"


@dataclasses.dataclass(frozen=True)
class ImagePair:
    """One image and its mask; `row` as in a spreadsheet, `b_value` in s/mm².

    `masks` are the files that make up the mask; without any, the image shows no tumour.
    `mask_label` says what is tumour in them, see `imaging.masks.read_mask`. `tumour` is what the
    file says of the image; None: nothing. `others` are the patient's images of the other
    conditions of `data.channels`, in their order. `liver` is as in `ImageRow`.
    """

    image: Path
    masks: tuple[Path, ...]
    mask_label: int | str | None
    row: int
    b_value: float | None = None
    tumour: bool | None = None
    others: tuple["ImageRow", ...] = ()
    liver: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """A row without its mask; `image`: a file or a DICOM series' folder, `b_value` in s/mm².

    `liver` are the files that make up the mask of the liver; none: there is no such mask.
    `unread` are the files of the mask, where they are only to be left alone.
    """

    patient: str
    condition: str
    image: Path
    b_value: float | None
    row: int
    liver: tuple[Path, ...] = dataclasses.field(default=(), kw_only=True)
    unread: tuple[Path, ...] = dataclasses.field(default=(), kw_only=True)


@dataclasses.dataclass(frozen=True)
class Row(ImageRow):
    """A whole row; `split` is as in `cases.SPLITS`, or "" where the file gives none."""

    masks: tuple[Path, ...]
    mask_label: int | str | None
    split: str
    tumour: bool | None = None

    @property
    def pair(self) -> ImagePair:
        """The image and its mask, without patient and condition."""
        return ImagePair(
            self.image, self.masks, self.mask_label, self.row, self.b_value, self.tumour,
            liver=self.liver,
        )  # fmt: skip


_AnyRow = TypeVar("_AnyRow", bound=ImageRow)


def read_rows(path: str | Path, doubts: list[str] | None = None) -> tuple[list[Row], list[str]]:
    """Returns the rows whose cells pass all checks, and all problems of the others.

    Args:
      path: of the file.
      doubts: receives what was assumed of the file as a text, a line each.

    Raises:
      CohortError: the file as a whole, or its header, cannot be used.
    """
    path = Path(path)
    rows, problems = _read(path, _read_row, doubts)
    return rows, problems + _check_splits(path, rows)


def read_image_rows(
    path: str | Path, doubts: list[str] | None = None
) -> tuple[list[ImageRow], list[str]]:
    """Does as `read_rows`, but neither needs nor checks the columns of masks and splits."""
    return _read(Path(path), _read_bare_row, doubts, unused=_FOR_TRAINING)


def _read(
    path: Path,
    read_row: Callable[[Cells], _AnyRow],
    doubts: list[str] | None,
    unused: Sequence[str] = (),
) -> tuple[list[_AnyRow], list[str]]:
    doubts = [] if doubts is None else doubts
    table = read_table(path, REQUIRED + OPTIONAL, doubts)
    number, names = table.rows[0]
    header = [normal_name(name) for name in names]
    problems = _check_header(path, number, names, unused)
    if problems:
        raise CohortError("\n".join(problems))
    if len(table.rows) == 1:
        raise CohortError(f"{path}: no rows below the header; add one row an image")

    rows, short = [], []
    for number, texts in table.rows[1:]:
        texts = list(map(str.strip, texts))
        missing = header[len(texts) :]
        if any(texts[len(header) :]) or set(missing) & (set(REQUIRED) - set(unused)):
            problems.append(
                f"{path}, row {number}: {len(texts)} cells under {len(header)} columns; correct "
                f"the {_SIGNS[table.separator]} of the row (put a cell that holds one in double "
                "quotes)"
            )
            continue
        if any(name in OPTIONAL and name not in unused for name in missing):
            short.append(number)  # Excel leaves out the empty cells at the end of some rows
        by_name = dict(zip(header, texts + [""] * len(missing), strict=False))
        cells = Cells(path, number, by_name, table.decimal_comma)
        row = read_row(cells)
        problems += cells.problems
        rows += [] if cells.problems else [row]
    if short:
        doubts.append(
            f"{path}, {_numbers(short)}: fewer cells than columns; those at the end are taken as "
            "empty"
        )
    doubts += ct_doubts(path, (row.condition for row in rows))
    if not unused:
        known = [name if name in REQUIRED + OPTIONAL else "" for name in header]
        cells_of = [texts for _, texts in table.rows[1:]]
        of_split = split_doubts(path, names, cells_of, known)
        doubts += of_split + unread_doubts(path, names, cells_of, known, of_split)
    return rows, problems + _check_images(path, rows)


_SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _check_header(path: Path, number: int, names: list[str], unused: Sequence[str]) -> list[str]:
    known = [name for name in REQUIRED + OPTIONAL if name not in unused]
    where = f"{path}, row {number}"
    names = [name.strip() for name in names]
    header = [normal_name(name) for name in names]
    if len(header) == 1 and re.search(r"[,;\t|]", names[0]):
        return [f"{where}: one column named {names[0]!r}; separate the cells with commas"]
    problems = []
    for name in sorted({name for name in header if name in known and header.count(name) > 1}):
        problems.append(f"{where}, column '{name}': stands {header.count(name)} times; keep one")
    absent = [name for name in known if name not in header]
    alike = [name for name in absent if name != "tumour"]  # others count 'tumours'
    meant: dict[str, str] = {}
    for own, name in zip(names, header, strict=True):
        # 'patient_id' beside 'patient' is somebody's extra column; without it, it is a slip.
        close = difflib.get_close_matches(name, alike, n=1, cutoff=0.75)
        if _MEANT.get(name) in absent:
            close = [_MEANT[name]]
        if name not in (*known, *unused) and close:
            meant[close[0]] = own
            other = ", or if it is something else, to a name of your own" * (name in _MEANT)
            problems.append(f"{where}, column '{own}': unknown; rename it to '{close[0]}'{other}")
    for name in REQUIRED:
        if name in absent and name not in meant:
            problems.append(
                f"{where}, column '{name}': missing; add it (there are: {', '.join(names)})"
            )
    return problems


def _read_image_row(cells: Cells) -> ImageRow:
    patient = cells.read("patient", parse_patient, "")
    condition = cells.read("condition", parse_condition, "")
    image = cells.read("image", lambda text: find_image(text, cells.folder), Path())
    return ImageRow(
        patient=patient,
        condition=condition,
        image=image,
        liver=cells.read("liver", lambda text: find_masks(text, cells.folder, image), ()),
        b_value=cells.read("b_value", lambda text: parse_b_value(text, cells.decimal_comma), None),
        row=cells.number,
    )


def _read_bare_row(cells: Cells) -> ImageRow:
    unread: tuple[Path, ...] = ()
    with contextlib.suppress(ValueError, OSError):  # the cell may hold anything
        files = split_masks(cells.texts.get("mask", ""), cells.folder, spelt_path)
        unread = tuple(file for file in files if file.is_file())  # of an empty cell, the folder
    return dataclasses.replace(_read_image_row(cells), unread=unread)


def _read_row(cells: Cells) -> Row:
    about = _read_image_row(cells)
    tumour = cells.read("tumour", parse_tumour, None)
    masks: tuple[Path, ...] = ()
    if cells.texts["mask"]:
        masks = cells.read("mask", lambda text: find_masks(text, cells.folder, about.image), ())
    elif tumour is not False:
        cells.refuse("mask", _NO_MASK)
    names = list(map(str, masks)) or list(filter(None, [cells.texts["mask"]]))
    return Row(
        **vars(about),
        masks=masks,
        mask_label=cells.read("mask_label", lambda text: parse_label(text, names), None),
        split=cells.read("split", parse_split, ""),
        tumour=tumour,
    )


def _check_images(path: Path, rows: Sequence[ImageRow]) -> list[str]:
    """Finds images in the rows of two patients or conditions, and rows that are there twice."""
    problems: list[str] = []
    first: dict[Path, list[ImageRow]] = {}
    for row in rows:
        earlier = first.setdefault(row.image.resolve(), [])
        for other in earlier:
            where = f"{path}, row {row.row}, column 'image': {row.image.name}"
            if other.patient != row.patient:
                problems.append(
                    f"{where} is also patient {other.patient!r}'s in row {other.row}, but here "
                    f"{row.patient!r}'s; correct the patient or the path"
                )
            elif (other.condition, other.b_value) == (row.condition, row.b_value):
                problems.append(
                    f"{where} stands already in row {other.row} for the same patient and "
                    "condition; delete one of the two rows"
                )
            elif other.b_value == row.b_value:  # one file has an image for each b-value
                problems.append(
                    f"{where} is also under the condition {other.condition!r} in row {other.row}, "
                    f"but here under {row.condition!r}; correct the condition or the path, or give "
                    "each its b_value"
                )
        earlier.append(row)
    return problems


def _check_splits(path: Path, rows: Sequence[Row]) -> list[str]:
    """Finds a split that is given for some rows only, or that differs between a patient's rows."""
    problems: list[str] = []
    with_split = [row for row in rows if row.split]
    without = [row.row for row in rows if not row.split]
    if with_split and without:
        problems.append(
            f"{path}, column 'split': empty in {_numbers(without)} but given in "
            f"{_numbers(row.row for row in with_split)}; fill it in every row or in none"
        )
    for patient in sorted({row.patient for row in with_split}):
        own = {
            split: [r.row for r in with_split if r.patient == patient and r.split == split]
            for split in ("train", "validation", "test")
        }
        given = [f"{split!r} in {_numbers(numbers)}" for split, numbers in own.items() if numbers]
        if len(given) > 1:
            problems.append(
                f"{path}, column 'split': patient {patient!r} is {' and '.join(given)}; put all "
                "rows of a patient in one split"
            )
    return problems


def _numbers(numbers: Iterable[int]) -> str:
    numbers = list(numbers)
    shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
    return f"row{'s' if len(numbers) > 1 else ''} {shown}"
