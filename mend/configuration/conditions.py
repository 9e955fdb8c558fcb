"""Names of ways to evaluate a run: apart from `choices`, so that a new one trains nothing again."""

from __future__ import annotations

from typing import Literal, get_args

Retrieval = Literal["bm25", "dense"]
RETRIEVED: tuple[str, ...] = get_args(Retrieval)
"""Selections of demonstrations nearest to the query's input, from the pool, the nearest last."""

Selection = Literal["train", "pool", "bm25", "dense"]
"""`train`: sampled from the seed's train rows. `pool`: sampled from the pool of task and seed."""

SELECTIONS: tuple[str, ...] = get_args(Selection)

Perturbation = Literal["no-label", "no-input", "random-label", "wrong-label"]
PERTURBATIONS: tuple[str, ...] = get_args(Perturbation)
