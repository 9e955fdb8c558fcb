"""How studies name their axes and the values of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AXIS_DISPLAY_NAMES = {
    "shots": "K, number of demonstrations",
    "length": "l, number of vectors",
    "pretrain.beta": "β, share of a chunk that is distilled",
    "gamma": "γ, weight of distillation in pretraining",
    "finetune.learning_rate": "learning rate, of finetuning",
    "finetune.losses.distill": "λ, weight of distillation in finetuning",
    "demonstrations": "Demonstrations",
    "template": "Template at test time",
}
"""The paper's symbols (sections 3 and 5) and what they mean; any other axis keeps its name.

What stands before the comma names it beside a value."""


def axis_display_name(name: str) -> str:
    """An axis in words: `l, number of vectors` for `length`."""
    return AXIS_DISPLAY_NAMES.get(name, name)


def value_text(value: Any) -> str:
    """An axis' value as text: 16 for 16.0, which a table may have made of 16."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def is_number(value: Any) -> bool:
    """Whether an axis' value is a number, or the text of one (a named group of settings)."""
    try:
        float(value)
    except ValueError:
        return False
    return True


def point_text(point: Mapping[str, Any]) -> str:
    """A point, or part of one, in words: `MEND, BM25, K = 4`; only numbers need their axis."""
    return ", ".join(
        f"{axis_display_name(axis).split(',')[0]} = {value_text(value)}"
        if axis != "run" and is_number(value)
        else str(value)
        for axis, value in point.items()
    )


def reference_text(reference: Mapping[str, Any]) -> str:
    """What differences are taken to: `MEND`, `K = 4`, or `demonstrations: BM25`."""
    return ", ".join(
        point_text({axis: value}) if axis == "run" or is_number(value) else f"{axis}: {value}"
        for axis, value in reference.items()
    )
