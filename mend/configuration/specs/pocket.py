"""What the job is told that makes the pocket world."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mend.configuration.settings import Count, Seed, Settings


class PocketSettings(Settings):
    """The generated benchmark."""

    seed: Seed
    """Seed of the generated text and tasks."""

    documents: Count
    """Documents of the corpus."""

    wrong_answers: Annotated[float, Field(ge=0, le=1)]
    """Share of rows with a wrong label in the corpus's lists: how much the text contradicts
    itself."""


class PocketWorldSpec(PocketSettings):
    """The job that makes tasks and text."""

    pool: Count | None = None
    """Rows of the larger train files of meta-test tasks; null: there are none."""
