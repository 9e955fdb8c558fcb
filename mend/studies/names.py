"""How studies name their axes and the values of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AXIS_LABELS = {
    "shots": "K, number of demonstrations",
    "length": "l, number of vectors",
    "pretrain.beta": "β, share of a chunk that is distilled",
    "gamma": "γ, weight of distillation in pretraining",
    "finetune.losses.distill": "λ, weight of distillation in finetuning",
    "demonstrations": "Demonstrations",
    "template": "Template at test time",
}
"""The paper's symbols (sections 3 and 5) and what they mean; any other axis keeps its name."""


def axis_label(name: str) -> str:
    """An axis in words: `l, number of vectors` for `length`."""
    return AXIS_LABELS.get(name, name)


def value_text(value: Any) -> str:
    """An axis' value as text: 16 for 16.0, which a table may have made of 16."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def point_text(point: Mapping[str, Any]) -> str:
    """A point, or part of one, in words: `MEND, K = 4`."""
    return ", ".join(
        value_text(value) if axis == "run" else f"{_symbol(axis)} = {value_text(value)}"
        for axis, value in point.items()
    )


def _symbol(axis: str) -> str:
    return axis_label(axis).split(",")[0]
