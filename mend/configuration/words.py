"""Words for messages: names that are listed, cut to a readable length, or like another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_LIST = 200


def cut(text: str, letters: int) -> str:
    """Return text with so many letters at most, what is left out in the middle as dots."""
    half = (letters - 3) // 2
    return text if len(text) <= letters else f"{text[:half]}...{text[-half:]}"


def listed(names: Iterable[Any]) -> str:
    """Return names with commas between them, the first ones alone if they are many."""
    names = [cut(" ".join(str(name).split()), 80) for name in names]
    text = ", ".join(names)
    if len(text) > LONGEST_LIST:
        shown = text[:LONGEST_LIST].split(", ")[:-1]
        text = f"{', '.join(shown)} and {len(names) - len(shown)} more"
    return text or "none"


def closest(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean ...?)" for the name most like `name`, or nothing."""
    near = difflib.get_close_matches(name[:100], [*names][:1000], n=1)
    return f" (did you mean {near[0]}?)" if near else ""
