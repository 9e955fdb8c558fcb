"""What measurements of cost and of attention are told."""

from __future__ import annotations

from mend.configuration.settings import Count, Seed, Settings
from mend.configuration.specs.run import MethodSource, RunSpec, ScoringSettings


class EfficiencySettings(Settings):
    """Whose costs are measured."""

    tasks: dict[str, list[str]]
    """The meta-test tasks of each partition, one of which is measured."""

    seed: Seed
    """Whose demonstrations."""

    prompt_length: Count
    """Vectors of prompt tuning."""

    methods: list[MethodSource] = []
    """Those that are measured beside vanilla ICL, prompt tuning and MEND."""

    paper_llm: str | None = None
    """Whose numbers of the paper stand beside."""


class EfficiencySpec(RunSpec):
    """A job that measures what inference costs; its method is MEND."""

    efficiency: EfficiencySettings
    """What is measured."""


class AttentionSettings(Settings):
    """Whose attention is looked at."""

    partition: str
    """Whose MEND."""

    tasks: list[str]
    """The partition's meta-test tasks."""

    seed: Seed
    """Whose demonstrations."""

    copy_length: Count | None = None
    """Tokens of the random sequence that is repeated to find induction heads; null: 500."""


class AttentionSpec(RunSpec):
    """A job that finds induction heads and where they look; its method is MEND."""

    scoring: ScoringSettings
    """How options are scored."""

    attention: AttentionSettings
    """What is looked at."""
