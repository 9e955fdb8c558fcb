"""Which tasks are read, and what the job is told that reads them."""

from __future__ import annotations

from mend.configuration.settings import Count, Seed, Settings


class TasksSpec(Settings):
    """Tasks in MetaICL's layout. One may be among both, meta-train and meta-test tasks."""

    train_tasks: list[str]
    """Meta-train tasks."""

    test_tasks: list[str]
    """Meta-test tasks."""

    seeds: list[Seed]
    """Seeds of the meta-test tasks' files."""

    pool: Count | None = None
    """Rows of the larger train files that demonstrations may come from; null: there are none."""
