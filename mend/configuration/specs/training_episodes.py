"""What the job is told that samples the episodes of meta-training."""

from __future__ import annotations

from typing import Literal

from mend.configuration.settings import Count, Seed, Settings

TaskSampling = Literal["uniform", "proportional"]


class TrainingEpisodesSpec(Settings):
    """Episodes that finetuning reads, in their order."""

    tasks: list[str]
    """Meta-train tasks."""

    shots: Count
    """Demonstrations of an episode."""

    queries_per_episode: Count
    """Queries that share them."""

    episodes: Count
    """How many there are."""

    seed: Seed
    """Seed of the samples."""

    task_sampling: TaskSampling
    """Each task is as likely, or each row (as in the authors' code)."""
