"""What a claim of a study compares: pairs of points, of which the first is to be higher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mend.errors import UserError

SIDES = ("higher", "lower")


def listed_axes(claim: Mapping[str, Any]) -> set[str]:
    """The axes for which a claim lists values, on either side."""
    return {axis for side in SIDES for axis, value in claim[side].items() if _is_list(value)}


def compared_points(claim: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The (higher, lower) points of a claim; several if it lists values.

    The first values of all its lists make the first pair, and so on; a single value stands in every
    pair. Raises UserError for lists of different lengths.
    """
    values = [value for side in SIDES for value in claim[side].values()]
    lengths = sorted({len(value) for value in values if _is_list(value)})
    if len(lengths) > 1:
        raise UserError(
            f"the lists of one claim go together, value by value, but here they have "
            f"{' and '.join(map(str, lengths))} values"
        )
    pairs = []
    for place in range(lengths[0] if lengths else 1):
        first, second = (
            {axis: v[place] if _is_list(v) else v for axis, v in claim[side].items()}
            for side in SIDES
        )
        pairs.append((first, second))
    return pairs


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))
