"""Which runs share a teacher's states, and what the job that keeps them is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mend.configuration.runs import method_settings, settings_text, study_points


def teacher_path(
    values: Mapping[str, Any],
    llm: str,
    method: str,
    variant: str,
    stage: str,
    partition: str | None = None,
) -> str | None:
    """Return where a run's stage finds its teacher's states, below the results folder.

    None if the stage does not distil, or is to have its teacher run at each step. A teacher with
    dropout (`protocol.llm_dropout_in_training`) says something else each time, so it is never kept.
    """
    settings = method_settings(values, llm, method, variant)[stage]
    if not (settings["losses"].get("distill") and settings.get("teacher_cache")):
        return None
    if values["protocol"]["llm_dropout_in_training"]:
        return None
    last = settings_text({"beta": settings["beta"]}) if stage == "pretrain" else partition
    return f"data/teacher/{llm}/{stage}/{last}"


def pretraining_teacher(values: Mapping[str, Any], llm: str, beta: float) -> dict[str, Any]:
    """Return what is told of the states of chunks that are cut at beta."""
    seed = values["training"]["seed"]
    stages = (found for found in _distilling(values, llm, "pretrain") if found["beta"] == beta)
    return {"stage": "pretrain", "beta": beta, "seed": seed, "examples": _most_examples(stages)}


def finetuning_teacher(values: Mapping[str, Any], llm: str, partition: str) -> dict[str, Any]:
    """Return what is told of the states of a partition's episodes."""
    examples = _most_examples(_distilling(values, llm, "finetune"))
    return {"stage": "finetune", "partition": partition, "examples": examples}


def _most_examples(stages: Iterator[Mapping[str, Any]]) -> int:
    """Return how many examples the longest of some stages reads."""
    return max((stage["steps"] * stage["batch_size"] for stage in stages), default=0)


def _distilling(values: Mapping[str, Any], llm: str, stage: str) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of a stage of every run of the studies that distils an LLM."""
    points = {
        point[1:3]
        for study in values["studies"]
        for point in study_points(values, study)
        if point[0] == llm
    }
    for method, variant in sorted(points):
        settings = method_settings(values, llm, method, variant).get(stage)
        if settings and settings["losses"].get("distill"):
            yield settings
