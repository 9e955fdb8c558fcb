"""What the job is told that chooses among trained candidates by their dev scores."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mend.configuration.settings import Settings


class Candidate(Settings):
    """A training that may be chosen."""

    variant: str
    """What differs from the method's configuration."""

    settings: dict[str, Any]
    """The settings that are chosen among, by dotted keys, as this one has them."""


class ChoiceSpec(Settings):
    """The choice of a run: one LLM, method, partition and training seed."""

    llm: str
    """The key of `llms`."""

    method: str
    """The method's name."""

    variant: str
    """What differs from the method's configuration, with all candidates."""

    partition: str
    """Whose meta-test rows are predicted afterwards."""

    candidates: list[Candidate] = Field(min_length=2)
    """In the order of the configuration: of equal dev scores the first is chosen."""
