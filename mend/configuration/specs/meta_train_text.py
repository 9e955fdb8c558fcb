"""What the job is told that makes a corpus of meta-train rows."""

from __future__ import annotations

from mend.configuration.settings import Settings


class MetaTrainTextSpec(Settings):
    """A corpus of the inputs of meta-train rows."""

    train_tasks: list[str]
    """Whose inputs: meta-train tasks that no partition of the configuration has in its
    meta-test."""

    test_tasks: list[str]
    """Meta-test tasks: a text that one of their rows has is left out."""
