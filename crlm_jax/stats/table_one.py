"""Table 1 of a study: describes two groups of patients and tests whether they differ.

The patient table has one row per patient: the column `patient`, the column of the groups, and the
variables. Each variable has one kind. The tests are those of Xia et al., Cancer Imaging 26:10
(2025), all two-sided:

  continuous   mean ± SD       Welch's t (Biometrika 34:28, 1947), in the paper for age
  ordinal      median (IQR)    Mann-Whitney U (Ann Math Stat 18:50, 1947), for the diameter
  categorical  n (%)           Pearson's χ² without continuity correction, for sex and primary site

χ² requires expected counts of 5 or more in 80 % of the cells, and of 1 or more in all cells
(Cochran, Biometrics 10:417, 1954). Otherwise a table of 2 × 2 gets Fisher's exact test, and a
larger one a warning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from scipy import stats

from crlm_jax.stats.patient_table import Patients, TableError, phantom_mark
from crlm_jax.system.text import to_csv

ALPHA = 0.05
KINDS = {
    "continuous": "mean ± SD; Welch's t",
    "ordinal": "median (IQR); Mann-Whitney U",
    "categorical": "n (%); Pearson's χ², or Fisher's exact test if named; % of known values",
}
_FEW = 4  # the most distinct numbers that are guessed to be categories
_MANY = 20  # the most distinct texts that are guessed to be categories, not remarks
_NO_TEST = (None, "–")


@dataclass
class TableOne:
    """The table: rows of cells under `header`, p-values by variable, notes and warnings."""

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    p_values: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def table_one(
    patients: Patients,
    group: str,
    kinds: dict[str, str] | None = None,
    groups: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> TableOne:
    """Describes and compares two groups of patients, variable by variable.

    A kind that is not given is guessed. Up to 4 distinct numbers, or text, are categorical; other
    numbers are continuous. Text with more than 20 values, or with another value in every row, is
    left out. Missing values are counted, and left out of the summary and the test of their
    variable. The p-values are not adjusted for the number of variables (`stats.holm` does that).

    With few patients a large p is no evidence that the groups are alike. Groups that were drawn at
    random differ by chance alone, for any p.

    Args:
      patients: from `read_patients`.
      group: the column of the groups.
      kinds: `continuous`, `ordinal` or `categorical` by variable, for kinds not to be guessed.
      groups: the two values of `group` to compare, in order; default: both values, as they come.
      leave_out: columns to leave out.

    Raises:
      TableError: a column is missing, the groups are not two, or cells do not fit their kind.
    """
    kinds = kinds or {}
    for name in (group, *kinds, *leave_out):
        if name not in patients.columns:
            there = ", ".join(patients.columns)
            raise TableError(f"{patients.path}: no column '{name}'; choose one of {there}")
    pair = _two_groups(patients, group, groups)
    member = np.array(patients.columns[group])
    mark = phantom_mark(patients.columns["patient"])
    sizes = [f"{name} (n = {np.sum(member == name)})" for name in pair]
    header = [f"variable{mark}", *sizes, "p", "test", "kind"]
    table = TableOne(f"{patients.path.name}{mark} by {group}", header)
    if absent := len(member) - sum(np.sum(member == name) for name in pair):
        table.notes.append(f"{absent} patients of no or another {group} are left out")
    guessed, problems = [], []
    for name in patients.columns:
        if name in ("patient", group, *leave_out):
            continue
        try:
            if kind := kinds.get(name) or _guess(patients, name, table):
                guessed += [] if name in kinds else [f"{name} ({kind})"]
                _add(table, patients, name, kind, [np.flatnonzero(member == g) for g in pair])
        except TableError as error:
            problems.append(str(error))
    if problems:
        raise TableError("\n".join(problems))
    used = {row[-1] for row in table.rows}
    table.notes += [f"{kind}: {what}" for kind, what in KINDS.items() if kind in used]
    table.notes.append(f"two-sided, * p < {ALPHA}, not adjusted for the number of variables")
    if guessed:
        table.notes.append(f"kinds guessed, set by --{', --'.join(KINDS)}: {', '.join(guessed)}")
    return table


def _two_groups(patients: Patients, group: str, groups: Sequence[str]) -> list[str]:
    _check_spelling(patients, group)
    there = [name for name in dict.fromkeys(patients.columns[group]) if name]
    if absent := [name for name in groups if name not in there]:
        raise TableError(
            f"{patients.path}, column '{group}': no group {absent[0]!r}; choose two of {there}"
        )
    pair = list(groups) or there
    if len(pair) != 2 or len(set(pair)) != 2:
        found = f"{len(there)} groups ({', '.join(there[:10]) or 'all empty'})"
        remedy = "choose two by --groups A,B" if len(there) > 1 else "name another column"
        raise TableError(f"{patients.path}, column '{group}': {found}, not two; {remedy}")
    return pair


def _check_spelling(patients: Patients, name: str) -> None:
    first: dict[str | float, str] = {}
    for i, cell in enumerate(patients.columns[name]):
        number = _number(cell)
        other = first.setdefault(cell.casefold() if number is None else number, cell)
        if other != cell:
            said = f"{cell!r} and {other!r} above differ in spelling only; write them alike"
            raise TableError(f"{patients.where(i, name)}: {said}")


def _number(cell: str) -> float | None:
    try:
        return value if math.isfinite(value := float(cell)) else None
    except ValueError:
        return None


def _guess(patients: Patients, name: str, table: TableOne) -> str | None:
    known = [cell for cell in patients.columns[name] if cell]
    numbers = sum(_number(cell) is not None for cell in known)
    distinct = len(set(known))
    if not known:
        table.warnings.append(f"{name}: no patient has a value; left out")
        return None
    if 2 * numbers > len(known):  # mostly numbers; `_numbers` reports the others as mistakes
        return "categorical" if numbers == len(known) and distinct <= _FEW else "continuous"
    if distinct > _MANY or (distinct == len(known) and distinct > _FEW):
        table.warnings.append(
            f"{name}: {distinct} different texts; left out (--categorical takes the column)"
        )
        return None
    return "categorical"


def _numbers(patients: Patients, name: str) -> np.ndarray:
    """Returns the column as numbers, NaN if missing."""
    cells = patients.columns[name]
    values = [_number(cell) if cell else math.nan for cell in cells]
    remedy = "correct it, empty the cell if the value is missing, or use --categorical"
    if wrong := [i for i, value in enumerate(values) if value is None]:
        said = [f"{patients.where(i, name)}: {cells[i]!r} is no number; {remedy}" for i in wrong]
        raise TableError("\n".join(said[:10]))
    return np.array(values, np.float64)


def _add(
    table: TableOne, patients: Patients, name: str, kind: str, members: list[np.ndarray]
) -> None:
    """Adds the rows of a variable; `members` are the indices of the patients of each group."""
    if kind == "categorical":
        _check_spelling(patients, name)
        cells = np.array(patients.columns[name])
        known = [cells[i][cells[i] != ""] for i in members]
        rows, counts = _categories(known)
        summary = ["", ""]
        p, test, warning = compare_counts(counts)
        table.warnings += [f"{name}: {warning}"] if warning else []
    else:
        values = _numbers(patients, name)
        known = [values[i][~np.isnan(values[i])] for i in members]
        rows, summary = [], _summaries(kind, known)
        p, test = (compare_means if kind == "continuous" else compare_ranks)(*known)
    missing = [i.size - k.size for i, k in zip(members, known, strict=True)]
    if any(missing):
        rows.append(["  missing", *map(str, missing), "", "", ""])
    table.p_values[name] = p
    label = f"{name}, {KINDS[kind].split(';')[0]}"
    table.rows += [[label, *summary, format_p(p), test, kind], *rows]


def _categories(groups: list[np.ndarray]) -> tuple[list[list[str]], np.ndarray]:
    """Returns a row for each category, and the counts (K, 2)."""
    categories = np.unique(np.concatenate(groups)).tolist()
    numbers = all(_number(category) is not None for category in categories)
    categories.sort(key=float if numbers else str.casefold)
    counts = np.array([[np.sum(x == c) for x in groups] for c in categories]).reshape(-1, 2)
    rows = []
    for category, line in zip(categories, counts, strict=True):
        sizes = [max(x.size, 1) for x in groups]
        shares = [f"{n} ({100 * n / size:.1f} %)" for n, size in zip(line, sizes, strict=True)]
        rows.append([f"  {category}", *shares, "", "", ""])
    return rows, counts


def _summaries(kind: str, groups: list[np.ndarray]) -> list[str]:
    """Returns mean ± SD or median (IQR) of each group.

    The number of decimals gives the SD of all values three significant figures.
    """
    both = np.concatenate(groups)
    spread = float(both.std()) if both.size else 0.0
    d = min(max(2 - math.floor(math.log10(spread)), 0), 6) if spread > 0 else 2  # decimals
    texts = []
    for x in groups:
        if not x.size:
            texts.append("–")
        elif kind == "continuous":
            sd = f"{x.std(ddof=1):.{d}f}" if x.size > 1 else "–"
            texts.append(f"{x.mean():.{d}f} ± {sd}")
        else:
            low, median, high = np.quantile(x, (0.25, 0.5, 0.75))
            texts.append(f"{median:.{d}f} ({low:.{d}f}–{high:.{d}f})")
    return texts


def compare_means(a: np.ndarray, b: np.ndarray) -> tuple[float | None, str]:
    """Welch's t: (ā − b̄) / √(s_a²/n_a + s_b²/n_b), degrees of freedom by Satterthwaite.

    The test asks whether the means differ, and does not assume equal variances. With few patients
    (below about 15 per group) it requires roughly normal values.

    Args:
      a: (n_a,) values of one group.
      b: (n_b,) values of the other group.

    Returns:
      p (None if a group has fewer than two values or neither group varies), and the test's name.
    """
    if min(a.size, b.size) < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return _NO_TEST
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue), "Welch's t"


def compare_ranks(a: np.ndarray, b: np.ndarray) -> tuple[float | None, str]:
    """Mann-Whitney U: the number of pairs (x of a, y of b) with x > y; a tie counts one half.

    The test asks whether values of one group tend to be larger. As in scipy, it is exact if a group
    has at most 8 values and none is tied; otherwise it is a normal approximation with correction
    for ties and continuity. With three values per group p is never below 0.1.

    Args:
      a: (n_a,) values of one group.
      b: (n_b,) values of the other group.

    Returns:
      p (None if a group has no value or all values are equal), and the test's name.
    """
    if not (a.size and b.size) or np.ptp(np.concatenate([a, b])) == 0:
        return _NO_TEST
    return float(stats.mannwhitneyu(a, b).pvalue), "Mann-Whitney U"


def compare_counts(counts: np.ndarray) -> tuple[float | None, str, str]:
    """Pearson's χ² = Σ (observed − expected)² / expected, or Fisher's exact test of a 2 × 2 table.

    The test asks whether the shares of the categories are the same in both groups. The top of this
    module says when Fisher's test is used.

    Args:
      counts: (K, 2) patients by category and group.

    Returns:
      p (None for one category or an empty group), the test's name, and a warning or "".
    """
    if len(counts) < 2 or not counts.sum(axis=0).all():
        return *_NO_TEST, ""
    expected = stats.contingency.expected_freq(counts)
    low = int((expected < 5).sum())
    sparse = low > 0.2 * expected.size or expected.min() < 1
    said = f"{low} of {expected.size} expected counts are below 5"
    if sparse and counts.shape == (2, 2):
        return float(stats.fisher_exact(counts).pvalue), "Fisher's exact", f"{said}: Fisher's exact"
    warning = f"{said}: do not rely on p; merge rare categories" if sparse else ""
    p = float(stats.chi2_contingency(counts, correction=False).pvalue)
    return p, "Pearson's χ²", warning


def format_p(p: float | None) -> str:
    """Writes a p-value with three decimals, and a star if it is below 0.05."""
    if p is None:
        return "–"
    return ("< 0.001" if p < 0.001 else f"{p:.3f}") + (" *" if p < ALPHA else "")


def as_text(table: TableOne) -> Table:
    """Returns the table for `rich` to print."""
    shown = Table(title=Text(table.title), title_justify="left", box=SIMPLE_HEAD)
    for i, name in enumerate(table.header):
        shown.add_column(Text(name), justify="right" if i in (1, 2, 3) else "left")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def as_csv(table: TableOne) -> str:
    """Returns the table as CSV, with the UTF-8 mark that spreadsheets need for ± and χ²."""
    return "\ufeff" + to_csv([table.header, *table.rows])


def as_markdown(table: TableOne) -> str:
    """Returns the table in Markdown, with its warnings and notes."""

    def line(row: list[str]) -> str:
        cells = " | ".join(x.replace("|", "\\|").replace("*", "\\*") for x in row)
        return f"| {cells} |".replace("|   ", "| &emsp;")

    notes = [f"- {x}".replace("*", "\\*") for x in (*table.warnings, *table.notes)]
    rows = [line(table.header), "| --- | ---: | ---: | ---: | --- | --- |", *map(line, table.rows)]
    return "\n".join([f"**{table.title}**", "", *rows, "", *notes]) + "\n"
