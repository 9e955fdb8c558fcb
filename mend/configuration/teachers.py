"""Which runs share a teacher's states, and what the job that keeps them is told."""

from __future__ import annotations

from collections.abc import Iterator

from mend.configuration.paths import JobPath
from mend.configuration.runs import method_setup, study_points
from mend.configuration.schema import ConfigurationValues, Settings
from mend.configuration.specs.teacher import TeacherExamples


def teacher_of(values: ConfigurationValues, job: JobPath) -> JobPath | None:
    """Return the job that keeps the teacher's states of a training job.

    None if the stage does not distil, or is to have its teacher run at each step. A teacher with
    dropout (protocol.llm_dropout_in_training) says something else each time, so it is never kept.
    """
    stage = method_setup(values, job.llm, job.method, job.variant).stages[job.stage]
    if not (stage.losses.distill and stage.teacher_cache):
        return None
    if values.protocol.llm_dropout_in_training:
        return None
    if job.stage == "pretrain":
        return JobPath("teacher", job.llm, stage="pretrain", beta=stage.beta)
    return JobPath("teacher", job.llm, stage="finetune", partition=job.partition)


def teacher_examples(values: ConfigurationValues, job: JobPath) -> TeacherExamples:
    """Return what a teacher's job is told: whose states, and of how many examples."""
    stages = list(_distilling(values, job.llm, job.stage))
    if job.stage == "pretrain":
        stages = [stage for stage in stages if stage.beta == job.beta]
    examples = max((stage.steps * stage.batch_size for stage in stages), default=0)
    if job.stage == "pretrain":
        seed = values.training.seed
        return TeacherExamples(stage="pretrain", examples=examples, beta=job.beta, seed=seed)
    return TeacherExamples(stage="finetune", examples=examples, partition=job.partition)


def _distilling(values: ConfigurationValues, llm: str, stage: str) -> Iterator[Settings]:
    """Yield the settings of a stage of every run of the studies that distils an LLM."""
    points = {
        point[1:3]
        for study in values.studies
        for point in study_points(values, study)
        if point[0] == llm
    }
    for method, variant in sorted(points):
        settings = method_setup(values, llm, method, variant).stages.get(stage)
        if settings and settings.losses.distill:
            yield settings
