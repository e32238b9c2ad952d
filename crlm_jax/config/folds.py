"""Folds of a cross-validation: how one of them is written."""

import re


def parse_fold(text: str) -> tuple[int, int] | None:
    """Reads a fold such as `2/5`, the second of five; empty: None.

    Raises:
      ValueError: the text is no fold; says what is.

    Example:
      >>> parse_fold("2/5")
      (2, 5)
    """
    if not text:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if match:
        fold, folds = int(match[1]), int(match[2])
        if fold <= folds and folds >= 2:
            return fold, folds
    raise ValueError(
        'must be a fold and the number of folds, such as "2/5" for the second of five, of two or '
        "more; empty for none"
    )
