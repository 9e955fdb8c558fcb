"""What the job is told that samples the episodes of meta-training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mend.configuration.settings import Count, Seed, Settings

TaskSampling = Literal["uniform", "proportional"]


Share = Annotated[float, Field(ge=0, le=1)]


class LabelNames(Settings):
    """In how many episodes of classification tasks labels have other names than their own.

    Then only the demonstrations tell what a label means (Wei et al., 2023, symbol tuning).
    """

    shuffled: Share = 0.0
    """Share of episodes in which a task's labels change their names among each other."""

    replaced: Share = 0.0
    """Share of episodes in which labels are named by random words of the task's inputs."""

    @model_validator(mode="after")
    def _shares(self) -> LabelNames:
        if self.shuffled + self.replaced > 1:
            raise ValueError("shuffled and replaced are more than 1 together")
        return self


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

    label_names: LabelNames | None = None
    """Other names of labels; null leaves them."""
