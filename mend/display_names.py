"""How tables, figures and pages name things."""

from __future__ import annotations

METHOD_LABELS = {
    "zero-shot": "Zero-shot",
    "prompt-tuning": "Prompt tuning",
    "vanilla-icl": "Vanilla ICL",
    "hypertuning": "HyperTuning",
    "mend": "MEND",
}
"""How the paper's table 2 names the methods; any other keeps its name in the configuration."""


def method_label(name: str) -> str:
    """`mend` as `MEND`; a difference as `MEND − Vanilla ICL`."""
    return " − ".join(METHOD_LABELS.get(part, part) for part in name.split(" - "))
