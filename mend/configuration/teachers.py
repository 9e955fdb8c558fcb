"""Which runs share a teacher's states, and what the job that keeps them is told."""

from __future__ import annotations

from collections.abc import Iterator

from mend.configuration.paths import JobPath
from mend.configuration.runs import (
    MethodSetup,
    attention_runs,
    candidates,
    method_setup,
    study_points,
)
from mend.configuration.schema import ConfigurationValues
from mend.configuration.specs.teacher import TeacherExamples


def teacher_of(values: ConfigurationValues, job: JobPath) -> JobPath | None:
    """Return the job that keeps the teacher's states of a training job.

    None if the stage does not distil, or is to have its teacher run at each step. A teacher with
    dropout (protocol.llm_dropout_in_training) says something else each time, so it is never kept.
    """
    setup = method_setup(values, job.llm, job.method, job.variant)
    stage = setup.stages[job.stage]
    if not (stage.losses.distill and stage.teacher_cache):
        return None
    if values.protocol.llm_dropout_in_training:
        return None
    if job.stage == "pretrain":
        # States are kept in the order in which chunks are read, and that is the seed's.
        seed = None if setup.seed == values.training.seed else setup.seed
        return JobPath("teacher", job.llm, stage="pretrain", beta=stage.beta, seed=seed)
    return JobPath("teacher", job.llm, stage="finetune", partition=job.partition)


def teacher_examples(values: ConfigurationValues, job: JobPath) -> TeacherExamples:
    """Return what a teacher's job is told: whose states, and of how many examples."""
    seed = values.training.seed if job.seed is None else job.seed
    setups = list(_distilling(values, job.llm, job.stage))
    if job.stage == "pretrain":
        own = (job.beta, seed)
        setups = [one for one in setups if (one.stages["pretrain"].beta, one.seed) == own]
    stages = [setup.stages[job.stage] for setup in setups]
    examples = max(stage.steps * stage.batch_size for stage in stages)
    if job.stage == "pretrain":
        return TeacherExamples(stage="pretrain", examples=examples, beta=job.beta, seed=seed)
    return TeacherExamples(stage="finetune", examples=examples, partition=job.partition)


def _distilling(values: ConfigurationValues, llm: str, stage: str) -> Iterator[MethodSetup]:
    """Yield the methods of every run that distils an LLM in a stage: of studies, and figure 5's."""
    runs = {
        (point.method, point.variant)
        for study in values.studies
        for point in study_points(values, study)
        if point.llm == llm
    }
    runs |= {run[1:3] for run in attention_runs(values) if run[0] == llm}
    found = {
        (method, candidate)
        for method, variant in runs
        for candidate in candidates(values, llm, method, variant)
    }
    for method, variant in sorted(found):
        setup = method_setup(values, llm, method, variant)
        if stage in setup.stages and setup.stages[stage].losses.distill:
            yield setup
