"""How tables, figures and pages name things; a *label* is a class of a classification task."""

from __future__ import annotations

from mend.configuration.methods import method_class, method_names

PAPER_METHODS = ("zero-shot", "prompt-tuning", "vanilla-icl", "hypertuning", "mend")
"""The methods of the paper's table 2, in its order."""

_PARTITIONS = {
    "class_to_class": "Class→Class",
    "non_class_to_class": "non-Class→Class",
    "non_nli_to_nli": "non-NLI→NLI",
    "non_qa_to_qa": "non-QA→QA",
    "qa_to_qa": "QA→QA",
    "hr_to_lr": "HR→LR",
    "non_paraphrase_to_paraphrase": "non-Para→Para",
}
_STAGES = {"pretrain": "Pretraining", "finetune": "Finetuning"}


def method_display_name(name: str) -> str:
    """`mend` as `MEND`, a difference as `MEND − Vanilla ICL`; others keep their name."""
    return " − ".join(
        method_class(part).display_name if part in method_names() else part
        for part in name.split(" - ")
    )


def partition_display_name(name: str) -> str:
    """`class_to_class` as `Class→Class`, as the paper's tables have it; `AVG` stays."""
    return _PARTITIONS.get(name, name)


def stage_display_name(name: str) -> str:
    """`pretrain` as `Pretraining`."""
    return _STAGES.get(name, name)
