"""Names of conditions, such as `pre_dwi` or `ct`: which are valid, and which are CT."""

import re

CONDITION = re.compile(r"[a-z0-9_]+")


def is_ct(condition: str) -> bool:
    """Whether a condition is CT, shown in a window of HU: `ct`, or a name with `ct_` first."""
    return condition == "ct" or condition.startswith("ct_")


def suggest_condition(text: str) -> str:
    """The valid condition name nearest to a text; empty if no character of the text is usable."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
