"""The kit's table, from the content of `gpu.json`. Python's own library alone."""

from collections.abc import Iterator
from typing import Any

GIB = 2**30
Row = dict[str, Any]


def write(found: dict[str, Any]) -> str:
    """Returns the table as text."""
    parts = found["parts"]
    lines = [*_machine(parts), "", *_steps(parts)]
    for title, make in (
        ("PyTorch's time over ours", _ratios),
        ("Largest batch", _largest),
        ("Parity with the CPU, float32", _parity),
        ("Input pipeline", _pipeline),
        ("GPU forms", _forms),
        ("Training", _training),
    ):
        if made := list(make(parts)):
            lines += ["", title, *(f"  {line}" for line in made)]
    if told := list(_words(parts)):
        lines += ["", "Not measured", *(f"  {line}" for line in told)]
    return "\n".join(lines)


def _rows(parts: dict[str, Any], kind: str) -> Iterator[Row]:
    for name, part in parts.items():
        if name.partition("-")[0] == kind:
            yield from part["rows"]


def _machine(parts: dict[str, Any]) -> list[str]:
    row = next(_rows(parts, "machine"), None)
    if row is None:
        return ["the machine was not read"]
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    memory = f", {row['memory_bytes'] / GIB:.1f} GiB for JAX" if row["memory_bytes"] else ""
    driver = f", driver {row['driver']}" if row["driver"] else ""
    return [
        f"{row['card']}{memory}{driver}, {row['cores']} cores, Python {row['python']}",
        versions,
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _step(name: str, row: Row) -> str:
    memory = row.get("peak_bytes") or row.get("program_bytes")
    compiled = row.get("compile_seconds", row.get("first_seconds", 0.0))
    return (
        f"{name:34}{row['batch']:6}{1e3 * row['median_seconds']:10.2f}"
        f"{1e3 * row['least_seconds']:10.2f}{row['slices_per_second']:10.1f}"
        f"{_percent(row.get('peak_share')):>9}{_percent(row.get('share_of_units_used')):>9}"
        f"{_percent(row.get('bandwidth_share')):>9}"
        f"{memory / GIB if memory else 0:9.2f}{compiled:9.1f}  {row['products']}"
    )


def _named(parts: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    """All steps: this project's, and PyTorch's, by name."""
    for kind in ("step", "largest"):
        for row in _rows(parts, kind):
            if "precision" in row and "batch" in row:
                yield f"crlm_jax {row['precision']}", row
    for row in _rows(parts, "torch"):
        yield f"PyTorch {row.get('variant', '')}", row


def _steps(parts: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{'step':34}{'batch':>6}{'ms':>10}{'least':>10}{'slices/s':>10}{'of peak':>9}"
        f"{'of units':>9}{'of bw':>9}{'GiB':>9}{'first s':>9}  products"
    )
    for name, row in sorted(_named(parts), key=lambda pair: pair[1]["batch"]):
        if "median_seconds" in row:
            yield _step(name, row)
        else:
            yield f"{name:34}{row['batch']:6}  {row.get('error') or row['skipped']}"
    peaks = {row["peak"] for row in _rows(parts, "step") if "peak" in row}
    yield from (f"peak: {text}" for text in sorted(peaks))
    yield (
        "of peak: the plain step's FLOPs, by XLA's count; of units: the critic's at the peak of "
        "exact float32;"
    )
    yield (
        "of bw: XLA's estimate of the bytes; GiB: the most that was in use (without a GPU, and "
        "after a batch that did not fit: as the compiler plans it)"
    )


def _ratios(parts: dict[str, Any]) -> Iterator[str]:
    ours = {
        (row["batch"], row["precision"]): row
        for row in _rows(parts, "step")
        if "median_seconds" in row
    }
    for row in _rows(parts, "torch"):
        if "median_seconds" not in row:
            continue
        beside = "float32" if row["variant"].startswith("eager") else "auto"
        if mine := ours.get((row["batch"], beside)):
            ratio = row["median_seconds"] / mine["median_seconds"]
            yield (
                f"batch {row['batch']}, {row['variant']}: {ratio:.2f} of {beside}'s; first losses "
                f"{row['first_loss']:.5f} and {mine['first_loss']:.5f}"
            )


def _largest(parts: dict[str, Any]) -> Iterator[str]:
    for row in _rows(parts, "largest"):
        if "largest" in row:
            yield (
                f"{row['precision']}: {row['largest']} slices fit of those tried; the smallest "
                f"that does not: {row['smallest_that_fails'] or 'none was found'}"
            )
        elif "skipped" in row:
            yield f"{row['precision']}: {row['skipped']}"


def _parity(parts: dict[str, Any]) -> Iterator[str]:
    for row in _rows(parts, "parity"):
        start = f"products {row['products']}, batch {row['batch']} of {row['size']}²: "
        if "error" in row:
            yield start + row["error"]
            continue
        terms = ", ".join(f"{name} {value:.1e}" for name, value in row["terms"].items())
        verdict = "agrees" if row["agrees"] else "DIFFERS"
        yield (
            f"{start}{verdict}: {terms} (at most {row['tolerances'][0]:g}); gradient "
            f"{row['gradient']:.1e} (at most {row['tolerances'][1]:g}), cosine {row['cosine']:.6f}"
        )


def _pipeline(parts: dict[str, Any]) -> Iterator[str]:
    for row in _rows(parts, "pipeline"):
        what = f"batch {row['batch']}, {row['workers'] or 'no'} workers"
        if "error" in row:
            yield f"{what}: {row['error']}"
        elif "fed_to_alone" in row:
            word = "keeps up" if row["keeps_up"] else "does NOT keep up"
            yield (
                f"{what}, feeding the step in {row['precision']}: {row['slices_per_second']:.1f} "
                f"slices/s, {row['step_alone_slices_per_second']:.1f} without input: it {word}"
            )
        else:
            yield f"{what}: {row['slices_per_second']:.0f} slices/s"


def _forms(parts: dict[str, Any]) -> Iterator[str]:
    for kind in ("forms", "variants"):
        for row in _rows(parts, kind):
            if "ratio" in row:
                times = " / ".join(
                    f"{name} {1e3 * value:.2f} ms" for name, value in row["median_seconds"].items()
                )
                yield f"batch {row['batch']}, {row['precision']}: {times} = {row['ratio']:.3f}"
            else:
                yield f"{row['precision']}: {row.get('error') or row['skipped']}"


def _training(parts: dict[str, Any]) -> Iterator[str]:
    for row in _rows(parts, "train"):
        if "note" in row:
            continue
        if "error" in row or "slices_per_second" not in row:
            yield str(row.get("error") or row.get("ended") or "no step was done")
            continue
        word = "stopped; the same command goes on"
        if row["steps"] == row["of_steps"]:
            word = "all, and the report" if row["finished"] else "all, without the report"
        yield (
            f"{row['precision']}, critic's weights {row['weights']}: step {row['steps']} of "
            f"{row['of_steps']} ({word}), loss {row['loss']:.4f}, {row['slices_per_second']:.1f} "
            f"slices/s; all steps: {row['hours_for_all_steps']:.3f} h without validation"
        )
        if "ended" in row:
            yield row["ended"]


def _words(parts: dict[str, Any]) -> Iterator[str]:
    for name, part in parts.items():
        if part["status"] != "done":
            yield f"{name}: {part['status']}, {part['words']}"
