"""What a condition (such as `pre_dwi` or `ct`) may be called, and which are CT."""

import re


def is_ct(condition: str) -> bool:
    """Whether images of a condition are shown in a window of HU: `ct`, or beginning with `ct_`."""
    return condition == "ct" or condition.startswith("ct_")


CONDITION = re.compile(r"[a-z0-9_]+")


def suggest_condition(text: str) -> str:
    """The nearest name that can be a condition; empty if nothing of the text can stay."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
