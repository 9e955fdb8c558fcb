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
    """Return joined demonstrations in at most `most` segments of about as many tokens, in order.

    Demonstrations stay whole, but a text, or one of more than `longest` tokens, is cut into parts
    first. What does not fit `most` segments of `longest` tokens is left out at the end. Of nothing
    there is one empty segment.
    """
    size = max(1, min(longest, -(-len(tokens) // most)))
    parts: list[list[int]] = []
    for x, y in pairs_of(tokens):
        whole = [*x, *y]
        fits = hasattr(tokens, "sizes") and len(whole) <= longest
        step = len(whole) if fits else size
        parts += [whole[start : start + step] for start in range(0, len(whole), step or 1)]
    found: list[list[int]] = [[]]
    for part in parts:
        # A segment ends where it is as long as its share, or the next part has no room in it.
        full = len(found[-1]) + len(part) > longest or 2 * len(found[-1]) + len(part) > 2 * size
        if found[-1] and full and len(found) < most:
            found.append([])
        if len(found[-1]) + len(part) > longest:
            break
        found[-1] += part
    return found
