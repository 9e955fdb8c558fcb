"""What the job is told that reads a larger pool of demonstrations from a data set's files."""

from __future__ import annotations

from typing import Literal

from mend.configuration.settings import Count, Seed, Settings


class PoolSpec(Settings):
    """Which rows of the files become the pools of which tasks."""

    tasks: list[str]
    """Meta-test tasks."""

    seeds: list[Seed]
    """Each task has a pool for each."""

    rows: Count
    """How many rows a pool is said to have: a part of its files' names."""

    missing_tasks: Literal["error", "skip"]
    """What to do about a task and seed without rows: skip leaves it without a pool of its own."""
