"""What the job is told that chooses the demonstrations of dev and test rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mend.configuration.conditions import Selection
from mend.configuration.settings import Count, PackagePath, Revision, Seed, Settings

DemonstrationsAtTest = Literal["per-row", "per-seed"]


class DenseRetrieval(Settings):
    """What embeds inputs for selection: dense."""

    model: PackagePath
    """Folder or hub name."""

    revision: Revision | None = None
    """Commit or tag on the hub."""

    kind: Literal["sentence-transformers", "language-model"]
    """A sentence-transformers model, or the mean of a causal language model's last states."""


class EvaluationEpisodesSpec(Settings):
    """The demonstrations of each dev or test row, for each seed."""

    tasks: list[str]
    """Meta-test tasks."""

    shots: Annotated[int, Field(ge=0)]
    """Demonstrations of a row."""

    seeds: list[Seed]
    """Seeds of the tasks' files."""

    demonstrations_at_test: DemonstrationsAtTest
    """Each row has its own, or all rows of a seed share them; for train and pool."""

    rows: Count | None = None
    """At most so many rows a task, a random subset that is the same for every seed; null: all."""

    seed: Seed
    """Seed of the samples."""

    selection: Selection = "train"
    """Where demonstrations come from, and how they are chosen."""

    dense: DenseRetrieval | None = None
    """What embeds inputs, for selection: dense."""
