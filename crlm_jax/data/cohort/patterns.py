"""Images and their masks found by file-name patterns such as ``data/{patient}/{condition}.nii.gz``.

No file is opened and none is written. A name that can be read in two ways is an error, not a guess.
"""

import dataclasses
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from crlm_jax.data.cohort.rows import CohortError
from crlm_jax.imaging.conditions import CONDITION, suggest_condition

_TOKEN = re.compile(r"\{([A-Za-z_]\w*)(?::([^{}]+))?\}|(\*\*/)|(\*)|([{}]|\*\*)")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row that may be written to cohort.csv: its cells, the paths as `Path`."""

    patient: str
    condition: str
    image: Path
    mask: Path
    mask_label: str = ""
    split: str = ""
    liver: Path | None = None  # its mask


@dataclasses.dataclass(frozen=True)
class Found:
    """Images with their masks, files without a partner, and notes for the user."""

    entries: tuple[Entry, ...]
    unpaired: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def from_patterns(
    images: str,
    masks: str | None,
    *,
    livers: str | None = None,
    conditions: Sequence[str] = (),
    rename: Sequence[str] = (),
    label: str | None = None,
) -> Found:
    """Pairs an image and a mask whose names have the same text for every placeholder.

    Args:
      images: such as ``data/{patient}/{condition}.nii.gz``. ``{name}`` stands for part of one file
        or folder name, ``{name:REGEX}`` for a part that matches, ``*`` for any part of a name and
        ``**/`` for any folders. A folder that matches is a DICOM series.
      masks: the same for the masks; a file that fits both patterns is a mask.
      livers: the same for masks of the liver, which not every image needs; None: there are none.
      conditions: the one condition, if the pattern has no ``{condition}``.
      rename: conditions to rename, each as ``old=new``.
      label: cell `mask_label` of every row.

    Raises:
      CohortError: nothing matches, or a name can be read in more than one way.
    """
    if not masks:
        raise CohortError("--images needs --masks with the pattern of the masks' names")
    names = _check_names(images, masks, livers)
    if label and not masks.lower().endswith(".dcm") and not re.fullmatch("[1-9][0-9]*", label):
        raise CohortError(f"--label {label!r}: write the number of the label, above 0")
    found_masks, found_livers = (
        _match(pattern, folders=False) if pattern else {} for pattern in (masks, livers)
    )
    found_masks = {k: v for k, v in found_masks.items() if k not in found_livers}
    others = (*found_masks, *found_livers)
    found_images = {k: v for k, v in _match(images, folders=True).items() if k not in others}
    if not found_images or not found_masks:
        pattern, option = (images, "--images") if not found_images else (masks, "--masks")
        raise CohortError(f"no file matches {option} {pattern!r}; {what_is_there(pattern)}")
    if livers and not found_livers:
        raise CohortError(f"no file matches --livers {livers!r}; {what_is_there(livers)}")
    there = {v.get("condition", "") for v in found_images.values()}
    renamed = _conditions(names, there, conditions, rename)
    image_of, mask_of = _by_values(found_images), _by_values(found_masks)
    liver_of = _by_values(found_livers)
    entries = []
    for key, image in image_of.items():
        if key in mask_of:
            values = found_images[image]
            condition, split = renamed[values.get("condition", "")], values.get("split", "")
            mask = mask_of[key]
            about = (label or "", split, liver_of.get(key))
            entries.append(Entry(values["patient"], condition, image, mask, *about))
    unpaired = [f"{image_of[key]}: image without mask" for key in image_of if key not in mask_of]
    unpaired += [f"{mask_of[key]}: mask without image" for key in mask_of if key not in image_of]
    alone = [f"{liver_of[key]}: liver without image" for key in liver_of if key not in image_of]
    without = sum(entry.liver is None for entry in entries) if livers else 0
    notes = [f"{without} of {len(entries)} images have no mask of the liver"] * bool(without)
    return Found(tuple(entries), tuple(unpaired + alone), tuple(notes))


def _check_names(images: str, masks: str, livers: str | None) -> list[str]:
    """Returns the placeholders of the images' pattern, which the other patterns have too."""
    names = _names(images)
    for option, pattern in (("--masks", masks), ("--livers", livers or images)):
        for name in sorted(set(names) ^ set(_names(pattern)) | ({"patient"} - set(names))):
            raise CohortError(
                f"{{{name}}} must be in --images and in {option}, to tell which belong together; "
                "write it into both, or * in its place"
            )
    return names


def _conditions(
    names: Sequence[str], there: Iterable[str], conditions: Sequence[str], rename: Sequence[str]
) -> dict[str, str]:
    """Returns the name of each condition by the text in the file names, "" where they have none."""
    if "condition" not in names:
        if rename:
            raise CohortError("--rename-condition: --images has no {condition} to rename")
        return {"": one_condition(conditions, "--images has no {condition}")}
    if conditions:
        raise CohortError("--condition and {condition} in --images: leave one of them out")
    return _rename(there, rename)


def _tokens(pattern: str) -> Iterator[tuple[str, str | None, str | None]]:
    """Yields (literal text, placeholder or wildcard after it, its regular expression)."""
    place = 0
    for match in _TOKEN.finditer(pattern):
        name, exact, folders, star, wrong = match.groups()
        if wrong:
            raise CohortError(
                f"{pattern!r}: {wrong!r} has no meaning here; write {{name}}, * or **/"
            )
        yield pattern[place : match.start()], name or folders or star, exact
        place = match.end()
    yield pattern[place:], None, None


def _names(pattern: str) -> list[str]:
    return [token for _, token, _ in _tokens(pattern) if token and token[0] != "*"]


def _regex(pattern: str, lazy: str) -> re.Pattern:
    """The pattern as a regular expression whose repeats are greedy (`lazy` "") or lazy ("?")."""
    expression, seen = "", set()
    for literal, token, exact in _tokens(pattern):
        expression += re.escape(literal)
        if token == "*":
            expression += f"[^/]*{lazy}"
        elif token == "**/":
            expression += f"(?:[^/]+/)*{lazy}"
        elif token in seen:
            expression += f"(?P={token})"
        elif token:
            expression += f"(?P<{token}>{exact or f'[^/]+{lazy}'})"
            seen.add(token)
    try:
        return re.compile(expression)
    except re.error as error:
        raise CohortError(f"{pattern!r}: holds a wrong regular expression ({error})") from error


def _match(pattern: str, *, folders: bool) -> dict[Path, dict[str, str]]:
    """Finds the files of a pattern; returns the text of every placeholder in each file's name."""
    pattern = os.path.normpath(os.path.expanduser(pattern))
    first, last = _regex(pattern, "?"), _regex(pattern, "")
    search = "".join(
        glob.escape(literal) + (token if token in ("*", "**/") else "*" * bool(token))
        for literal, token, _ in _tokens(pattern)
    )
    found = {}
    for name in sorted(glob.glob(search, recursive=True)):
        path, match, other = Path(name), first.fullmatch(name), last.fullmatch(name)
        if not match or not other or not (path.is_file() or (folders and files(path))):
            continue
        values, others = match.groupdict(), other.groupdict()
        if values != others:
            raise CohortError(
                f"{name} can be read in two ways, as {_plain(values)} or as {_plain(others)}; say "
                "what a name looks like, as in {patient:p[0-9]+} or {condition:pre_dwi|post_dwi}"
            )
        found[path] = values
    return found


def _plain(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in values.items())


def _by_values(found: Mapping[Path, dict[str, str]]) -> dict[tuple, Path]:
    """Returns the one path for each set of texts that the placeholders stand for."""
    paths: dict[tuple, Path] = {}
    for path, values in found.items():
        key = tuple(sorted(values.items()))
        if key in paths:
            raise CohortError(
                f"{paths[key]} and {path} are both {_plain(values)}; write a further {{name}} into "
                "both patterns where they differ, or be more exact in place of *"
            )
        paths[key] = path
    return paths


def _rename(found: Iterable[str], rename: Sequence[str]) -> dict[str, str]:
    """Returns the new name of each condition found; a name that cannot be one is an error."""
    found = sorted(found)
    renamed = dict(zip(found, found, strict=True))
    for text in rename:
        old, equals, new = text.partition("=")
        if not equals or old not in renamed:
            raise CohortError(
                f"--rename-condition {text!r}: write OLD=NEW; the conditions found are: "
                f"{', '.join(found)}"
            )
        renamed[old] = new
    if wrong := [old for old, new in renamed.items() if not CONDITION.fullmatch(new)]:
        flags = " ".join(
            f"--rename-condition '{old}={suggest_condition(renamed[old]) or 'name'}'"
            for old in wrong
        )
        raise CohortError(
            f"conditions that are not lower-case letters, digits and _: {', '.join(wrong)}; add "
            f"{flags}"
        )
    return renamed


def one_condition(conditions: Sequence[str], why: str) -> str:
    """Returns the only condition; otherwise raises an error that says `why` one is needed."""
    if len(conditions) != 1:
        raise CohortError(f"give --condition once, such as --condition ct: {why}")
    return conditions[0]


def files(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden, sorted; none if there is no such folder."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for file in paths if file.is_file() and not file.name.startswith(".")]


def what_is_there(pattern: str) -> str:
    """Names a few files under the part of a path or pattern that exists, for an error message."""
    folder = Path(os.path.normpath(os.path.expanduser(re.split(r"[{*]", pattern)[0] + "x"))).parent
    lost = folder
    while not folder.is_dir():
        folder = folder.parent
    examples: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        shown = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        examples += [str(file.relative_to(folder)) for file in shown]
        if len(examples) >= 5:
            break
    begin = "" if lost == folder else f"there is no folder {lost}; "
    content = f"has, for example: {', '.join(examples[:5])}" if examples else "has no files"
    return f"{begin}{folder} {content}; correct the path or the pattern"
