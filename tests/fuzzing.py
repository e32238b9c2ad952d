"""Damaged and hostile input: taken, or refused by a clear error that names the file.

Every reader of the package gets mutations of a small valid file. It may take one (a flipped bit of
a voxel is a voxel) or refuse it by the project's own error; anything else, such as an `IndexError`
or a file left behind, is a bug. The examples are the same in every run: a few thousand, or times
CRLM_JAX_FUZZ as many:

    CRLM_JAX_FUZZ=10 python -m pytest -k fuzz --hypothesis-show-statistics
"""

import os
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("CRLM_JAX_FUZZ", "1"))


def fuzz(examples: int) -> Callable:
    """Runs a test with so many examples, the same each time."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def mutated(draw, whole: bytes) -> bytes:
    """A file with some of its bits flipped, bytes set, a part cut out or doubled, or its end gone.

    Headers stand at the beginning (zip's at the end), so that these are hit more often.
    """
    data = bytearray(whole)
    near = st.integers(0, min(400, len(whole) - 1))
    places = st.one_of(near, near.map(lambda i: len(whole) - 1 - i), st.integers(0, len(whole) - 1))
    for _ in range(draw(st.integers(1, 4))):
        place = min(draw(places), max(0, len(data) - 1))
        match draw(st.sampled_from(["bit", "set", "number", "cut", "double", "end"])):
            case _ if not data:
                break
            case "bit":
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "set":
                data[place] = draw(st.sampled_from([0, 1, 0x20, 0x2F, 0x7F, 0x80, 0xFE, 0xFF]))
            case "number":
                data[place : place + 4] = draw(st.binary(min_size=4, max_size=4))
            case "cut":
                del data[place : place + draw(st.integers(1, 64))]
            case "double":
                data[place:place] = data[place : place + draw(st.integers(1, 64))]
            case "end":
                del data[place:]
    return bytes(data)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def taken_or_refused(read: Callable, error: type[Exception], folder: Path, name: str) -> bool:
    """Whether `read` takes what is in the folder; that it else says `error` with the name."""
    before = snapshot(folder)
    refusal = None
    try:
        read()
    except error as found:
        refusal = str(found)
    event("taken" if refusal is None else "refused")
    assert refusal is None or (name in refusal and len(refusal) > len(name) + 10), refusal
    assert snapshot(folder) == before
    return refusal is None
