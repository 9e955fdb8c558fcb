"""What every value of a configuration must be, whatever its key: the door before the types."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from unicodedata import category

DEEPEST, MOST_VALUES, LONGEST_KEY, LONGEST_TEXT = 20, 50_000, 200, 2000
LARGEST_NUMBER = 2**63 - 1


def unusable_values(values: Any) -> Iterator[tuple[list[Any], str]]:
    """Yield (place, problem) for each value that no key can have.

    Values are finite numbers of 64 bits, text that can be written and seen, true, false, null, and
    lists and mappings of these, neither deep nor many: YAML can make a billion of a few lines.
    """
    waiting, seen = [([], values)], 0
    while waiting:
        place, value = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            yield [], f"it has more than {MOST_VALUES:,} values; leave out what is repeated"
            return
        if problem := _problem(value, len(place)):
            yield place, problem
        elif isinstance(value, dict):
            for key, child in value.items():
                if problem := _key_problem(key):
                    yield place, problem
                else:
                    waiting.append(([*place, key], child))
        elif isinstance(value, list):
            waiting.extend(([*place, index], child) for index, child in enumerate(value))


def _problem(value: Any, depth: int) -> str | None:
    if isinstance(value, (dict, list)):
        return "it is nested too deeply" if depth >= DEEPEST else None
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if abs(value) <= LARGEST_NUMBER else "the number is too large"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} is not a number to reckon with"
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            return f"{len(value):,} letters are too many: {LONGEST_TEXT:,} at most"
        if hidden := [letter for letter in value if not _shows(letter)]:
            return f"it has a letter that is none, {ascii(hidden[0])}; leave it out"
        return None
    return f"{type(value).__name__} is no kind of value here; write text in quotes"


def _key_problem(key: Any) -> str | None:
    if key is None or isinstance(key, bool) or not isinstance(key, (str, int, float)):
        return f"the key {str(key)[:60]} must be text: quote it"
    if isinstance(key, str) and (len(key) > LONGEST_KEY or not all(map(_shows, key))):
        return f"the key {ascii(key[:40])} is too long, or has letters that are none"
    return _problem(key, 0)


def _shows(letter: str) -> bool:
    """Whether a letter is none of those that control a terminal or stand for half a letter."""
    return letter in "\t\n" or category(letter) not in ("Cc", "Cs")
