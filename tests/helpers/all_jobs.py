"""Every job that a configuration's targets need, as the workflow's rules have them."""

from __future__ import annotations

import json

from mend.configuration.job_specs import specification
from mend.configuration.loading import Configuration
from mend.configuration.paths import parse_job_path, sampling_of
from mend.configuration.report_spec import report_files
from mend.configuration.runs import (
    candidate_folders,
    chosen_folder,
    default_condition,
    divergence_runs,
    method_setup,
    study_runs,
    trained_stages,
    usual_variant,
    weights_folder,
)
from mend.configuration.settings import Settings
from mend.configuration.study_specs import study_choices, study_stages
from mend.configuration.teachers import teacher_of


def all_jobs(configuration: Configuration) -> list[str]:
    """Return the path of each job of rule `all`, each once."""
    values = configuration.values
    found: dict[str, None] = dict.fromkeys(
        ["table1", "table5", "report", *values.studies, "data/tasks"]
    )
    benchmark = values.benchmark
    if benchmark.tasks.source != "folder":
        found["data/benchmark"] = None
    if benchmark.corpus.source in ("hub", "meta-train"):
        found["data/corpus"] = None
    if benchmark.pool_files:
        found["data/pool"] = None
        if benchmark.pool_files.source == "hub":
            found["data/pool-files"] = None
    conditions, trainings, llms = {default_condition(values)}, set(), set()
    conditions_of_dev = set()
    for study in values.studies:
        study_stages(configuration, study), study_choices(configuration, study)
        for run in study_runs(configuration, study):
            place = (values, run.llm, run.method, run.variant, run.partition)
            found[str(run.path)] = None
            conditions.add(run.condition)
            llms.add(run.llm)
            trainings.update(trained_stages(*place))
            weights_folder(*place)
            if chosen := chosen_folder(*place):
                found[chosen] = None
                candidate_folders(*place)
        if "divergence" in values.studies[study].pictures:
            for llm in values.studies[study].llms:
                found[f"divergence/{study}/{llm}"] = None
                runs = divergence_runs(configuration, study, llm)
                conditions_of_dev.update(run.condition for run in runs)
    for llm in values.efficiency.llms if values.efficiency else ():
        found[f"efficiency/{llm}"] = None
        llms.add(llm)
    for llm in values.attention.llms if values.attention else ():
        found[f"attention/{llm}"] = None
        llms.add(llm)
        place = (
            values,
            llm,
            "mend",
            usual_variant(values, llm, "mend"),
            values.attention.partition,
        )
        trainings.update(trained_stages(*place))
        assert weights_folder(*place)
    for folder in sorted(trainings):
        job = parse_job_path(folder)
        found[folder] = None
        data = (
            f"data/chunks/{job.llm}"
            if job.stage == "pretrain"
            else f"data/episodes/train/{job.partition}"
        )
        found[data] = None
        if teacher := teacher_of(values, job):
            found[str(teacher)] = None
        if method_setup(values, job.llm, job.method, job.variant).stages[job.stage].early_stopping:
            found[f"data/episodes/{sampling_of(default_condition(values))}/dev"] = None
    for condition in sorted(conditions_of_dev):
        found[f"data/episodes/{sampling_of(condition)}/dev"] = None
    for condition in sorted(conditions):
        found[f"data/episodes/{sampling_of(condition)}/test"] = None
    report_files(configuration)
    made = f"{configuration.results}/local-models/"
    if any(
        path.startswith(made)
        for llm in llms
        for path in (values.llms[llm].path, values.llms[llm].distiller.path)
    ):
        found["local-models"] = None
    return list(found)


def checked_specifications(configuration: Configuration) -> dict[str, Settings]:
    """Return each job's specification, which can be written, read back and named."""
    found = {}
    for path in all_jobs(configuration):
        assert str(parse_job_path(path)) == path
        assert all(0 < len(part.encode()) <= 230 for part in path.split("/")), path
        spec = specification(configuration, path)
        text = json.dumps(spec.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
        text.encode()
        assert type(spec).model_validate(json.loads(text)) == spec
        found[path] = spec
    for path, spec in found.items():
        job = parse_job_path(path)
        if job.kind == "train" and (teacher := teacher_of(configuration.values, job)):
            trained = spec.training.steps * spec.training.batch_size
            assert found[str(teacher)].teacher.examples >= trained, path
    return found
