"""What a prediction job is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mend.configuration.choices import Stage
from mend.configuration.conditions import Perturbation
from mend.configuration.settings import Count, Seed, Settings
from mend.configuration.specs.free_form import FreeForm
from mend.configuration.specs.run import RunSpec, ScoringSettings


class PredictionSettings(Settings):
    """Which rows are scored, and with which demonstrations."""

    tasks: list[str]
    """Meta-test tasks."""

    free_form: Annotated[dict[str, FreeForm], Field(exclude_if=lambda tasks: not tasks)] = {}
    """Those without options, and how they are answered."""

    partition: str
    """The partition whose tasks they are, or `all`."""

    variant: str
    """What differs from the method's configuration in training."""

    stage: Stage | None = None
    """The stage whose weights are asked for, as the workflow does; null: of any, by hand."""

    condition: str
    """How the run is evaluated, as its path says it."""

    perturbation: Perturbation | None = None
    """What is done to the demonstrations."""

    seed: Seed | None = None
    """Seed of the perturbation's samples."""

    group: Count | None = None
    """Demonstrations that are distilled at a time; null: all together."""


class PredictionSpec(RunSpec):
    """A prediction job."""

    scoring: ScoringSettings
    """How options are scored."""

    predict: PredictionSettings
    """The rows."""
