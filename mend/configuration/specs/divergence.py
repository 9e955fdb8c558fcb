"""What the job is told that measures how far a run's context is from the demonstrations."""

from __future__ import annotations

from mend.configuration.settings import Seed
from mend.configuration.specs.prediction import PredictionSettings
from mend.configuration.specs.run import RunSpec


class DivergenceSpec(RunSpec):
    """A job that measures the divergence from the teacher."""

    predict: PredictionSettings
    """The run, as its predictions have it; rows are dev rows instead."""

    dev_seed: Seed
    """Whose dev rows and demonstrations."""
