"""How means and comparisons are written in tables, of reports and of studies."""

from collections.abc import Sequence

from crlm_jax.stats import comparison
from crlm_jax.stats.comparison import Numbers


def format_p(p: float) -> str:
    """Writes a p value; three decimals, since more say nothing of so few patients.

    Example:
      >>> format_p(0.0452), format_p(2e-5)
      ('0.045', '< 0.001')
    """
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def format_mean(value: Numbers, digits: int = 2) -> str:
    """Writes a mean with its interval, as `0.81 (0.76–0.85)`; `–` where there is none.

    An interval of few patients is marked `*`.
    """
    if value["mean"] is None:
        return "–"
    mean, low, high = (
        "" if value[name] is None else f"{value[name]:.{digits}f}".replace("-", "−")
        for name in ("mean", "ci_low", "ci_high")
    )
    if not low:
        return mean
    between = " to " if "−" in low else "–"
    return f"{mean} ({low}{between}{high})" + ("*" if value.get("small") else "")


def compared_rows(compared: Sequence[tuple[list[str], Numbers]]) -> list[list[str]]:
    """Writes paired differences as rows of a table; those without a patient are left out.

    Args:
      compared: the first cells of each row, and its `stats.paired_difference`.

    Returns:
      The first cells, n, the mean difference with its interval, p, and p by Holm's correction over
      all rows.
    """
    shown = [(cells, difference) for cells, difference in compared if difference["n"]]
    p_values = [p for _, difference in shown if (p := difference["p"]) is not None]
    return [
        [*cells, str(difference["n"]), format_mean(difference), format_p(p), format_p(adjusted)]
        for (cells, difference), p, adjusted in zip(
            shown, p_values, comparison.holm(p_values), strict=True
        )
    ]
