"""The names of the ways to choose the demonstrations of an evaluation row.

Apart from how they are done, so that reading episodes does not depend on retrieval's code.
"""

from __future__ import annotations

RETRIEVED = ("bm25", "dense")
"""Nearest to the query's input, from the pool, the nearest last."""

SELECTIONS = ("train", "pool", *RETRIEVED)
"""`train`: drawn from the seed's train rows. `pool`: drawn from the pool of task and seed."""


def source_split(selection: str) -> str:
    """The split whose rows the demonstrations of a selection are."""
    return "train" if selection == "train" else "pool"
