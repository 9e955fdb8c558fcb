"""What the job that keeps a teacher's hidden states is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mend.configuration.choices import Stage
from mend.configuration.settings import Count, Seed, Settings
from mend.configuration.specs.reading import ReadingSettings
from mend.configuration.specs.run import LLMSource


class TeacherExamples(Settings):
    """Whose states are kept."""

    stage: Stage
    """Chunks (pretrain) or episodes (finetune)."""

    examples: Count
    """How many examples the longest training reads."""

    beta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Pretraining: where chunks are cut."""

    seed: Seed | None = None
    """Pretraining: the order of chunks."""

    partition: str | None = None
    """Finetuning: whose episodes."""


class TeacherSpec(Settings):
    """A job that computes a teacher's states."""

    llm: LLMSource
    """The teacher."""

    reading: ReadingSettings
    """How rows become tokens."""

    teacher: TeacherExamples
    """Whose states are kept."""
