"""Demonstrations as token ids: joined, and one by one."""

from __future__ import annotations

from collections.abc import Sequence

Pair = tuple[list[int], list[int]]
"""Token ids of a demonstration's x and y, each with the separator before it."""


class Demonstrations(list[int]):
    """The token ids of some demonstrations, joined, which knows where each begins and ends.

    sizes: how many tokens the x and the y of each have.
    """

    def __init__(self, pairs: Sequence[Pair] = ()) -> None:
        """Join demonstrations in their order."""
        super().__init__(token for x, y in pairs for token in (*x, *y))
        self.sizes = [(len(x), len(y)) for x, y in pairs]

    def last(self, count: int) -> Demonstrations:
        """Return the last `count` tokens; a demonstration that they begin in lost its first."""
        skipped, pairs = max(0, len(self) - count), []
        for x, y in pairs_of(self):
            x, y, skipped = (
                x[skipped:],
                y[max(0, skipped - len(x)) :],
                max(0, skipped - len(x) - len(y)),
            )
            if x or y:
                pairs.append((x, y))
        return Demonstrations(pairs)


def pairs_of(tokens: Sequence[int]) -> list[Pair]:
    """Return the demonstrations of joined ones; a text is one, whose y is empty."""
    sizes = getattr(tokens, "sizes", None)
    if sizes is None:
        return [(list(tokens), [])] if tokens else []
    pairs, start = [], 0
    for x, y in sizes:
        pairs.append((list(tokens[start : start + x]), list(tokens[start + x : start + x + y])))
        start += x + y
    return pairs


def segments(tokens: Sequence[int], most: int, longest: int) -> list[list[int]]:
    """Return joined demonstrations in at most `most` segments of at most `longest` tokens each.

    A segment has as many whole demonstrations as fit; a text, or a longer demonstration, is cut.
    What does not fit all segments is left out at the end. Of nothing there is one empty segment.
    """
    found: list[list[int]] = [[]]
    for x, y in pairs_of(tokens):
        whole = [*x, *y]
        for start in range(0, len(whole), longest):
            part = whole[start : start + longest]
            if len(found[-1]) + len(part) > longest:
                found.append([])
            found[-1] += part
    return found[:most]
