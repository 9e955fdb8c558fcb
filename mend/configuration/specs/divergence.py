"""What the job is told that measures how far runs' contexts are from the demonstrations."""

from __future__ import annotations

from pydantic import Field

from mend.configuration.settings import Seed, Settings
from mend.configuration.specs.prediction import PredictionSettings
from mend.configuration.specs.run import RunSpec


class DivergenceRun(RunSpec):
    """A run that is measured."""

    predict: PredictionSettings
    """The run, as its predictions have it; rows are dev rows instead."""


class DivergenceSpec(Settings):
    """A job that measures the divergence from the teacher of a study's runs with one LLM."""

    runs: list[DivergenceRun] = Field(min_length=1)
    """All with the same LLM."""

    dev_seed: Seed
    """Whose dev rows and demonstrations."""
