"""Specifications: what each job is told, and no more, so that a change reruns only what it must.

A specification's path, relative to the results folder and without `.spec.json`, says which job it
is for (`mend.configuration.paths`); it is written beside what the job makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from mend.configuration.choices import ALL_PARTITIONS
from mend.configuration.loading import Configuration
from mend.configuration.methods import method_class
from mend.configuration.paths import DEFAULT, JobPath, parse_job_path, parse_settings
from mend.configuration.report_spec import report_specification
from mend.configuration.runs import (
    MethodSetup,
    candidates,
    divergence_runs,
    method_setup,
    training_shots,
)
from mend.configuration.settings import Settings
from mend.configuration.specs.analysis import (
    AttentionSettings,
    AttentionSpec,
    EfficiencySettings,
    EfficiencySpec,
)
from mend.configuration.specs.choice import Candidate, ChoiceSpec
from mend.configuration.specs.chunks import ChunksSpec, TokenizerSource
from mend.configuration.specs.divergence import DivergenceRun, DivergenceSpec
from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
from mend.configuration.specs.free_form import FreeForm
from mend.configuration.specs.hub import BenchmarkDownload, FilesDownload
from mend.configuration.specs.local_models import LocalModelsSpec
from mend.configuration.specs.meta_train_text import MetaTrainTextSpec
from mend.configuration.specs.own_tasks import OwnTaskRows, OwnTasksSpec
from mend.configuration.specs.pocket import PocketWorldSpec
from mend.configuration.specs.pool import PoolSpec
from mend.configuration.specs.prediction import PredictionSettings, PredictionSpec
from mend.configuration.specs.reading import LongestContext, ReadingSettings
from mend.configuration.specs.run import (
    DistillerSettings,
    DistillerSource,
    LLMLoading,
    LLMSource,
    MethodSource,
    RunSpec,
    ScoringSettings,
)
from mend.configuration.specs.tasks import TasksSpec
from mend.configuration.specs.teacher import TeacherSpec
from mend.configuration.specs.training import (
    EarlyStopping,
    LossSettings,
    TrainingSettings,
    TrainingSpec,
)
from mend.configuration.specs.training_episodes import TrainingEpisodesSpec
from mend.configuration.study_specs import (
    study_specification,
    table1_specification,
    table5_specification,
)
from mend.configuration.teachers import teacher_examples
from mend.errors import UserError


def specification(configuration: Configuration, path: str) -> Settings:
    """Return the specification of the job at a path; raises UserError if there is no such job."""
    job = parse_job_path(path)
    values = configuration.values
    for kind, name, names in (
        ("llms", job.llm, values.llms),
        ("methods", job.method, values.methods.names()),
        ("studies", job.study, values.studies),
        ("gguf_models", job.model, values.gguf_models),
        ("partitions", job.partition, [*configuration.needs, ALL_PARTITIONS]),
    ):
        if name and name not in names:
            raise UserError(f"there is no job for {path}.spec.json: {name} is not in {kind}")
    match job.kind:
        case "pocket-world":
            return _benchmark(configuration)
        case "download-corpus":
            corpus = values.benchmark.corpus
            if corpus.source == "meta-train":
                return MetaTrainTextSpec(
                    train_tasks=configuration.text_tasks,
                    test_tasks=_tasks(configuration).test_tasks,
                )
            return FilesDownload(
                repository=corpus.repository, revision=corpus.revision, files=corpus.files
            )
        case "download-pool":
            pool = values.benchmark.pool_files
            return FilesDownload(
                repository=pool.repository, revision=pool.revision, files=pool.files
            )
        case "pool":
            tasks = listed_tasks(configuration)
            return PoolSpec(
                tasks=tasks.test_tasks,
                seeds=tasks.seeds,
                rows=tasks.pool,
                missing_tasks=values.benchmark.missing_tasks,
            )
        case "own-tasks":
            return own_tasks_specification(configuration)
        case "tasks":
            return _tasks(configuration)
        case "local-models":
            tasks = _tasks(configuration).train_tasks
            return LocalModelsSpec(**dict(values.local_models), train_tasks=tasks)
        case "gguf-model":
            return values.gguf_models[job.model]
        case "chunks":
            return _chunks(configuration, job.llm)
        case "train-episodes":
            return _training_episodes(configuration, job.partition)
        case "evaluation-episodes":
            return _evaluation_episodes(configuration, job.sampling, job.split)
        case "teacher":
            return TeacherSpec(
                llm=_llm(configuration, job.llm),
                reading=values.protocol.subset(ReadingSettings),
                teacher=teacher_examples(values, job),
            )
        case "train":
            return _training(configuration, job)
        case "choose":
            return _choice(configuration, job)
        case "predict":
            return _prediction(configuration, job)
        case "divergence":
            return _divergence(configuration, job)
        case "efficiency":
            return _efficiency(configuration, job.llm)
        case "attention":
            return _attention(configuration, job.llm)
        case "table1":
            return table1_specification(configuration)
        case "table5":
            return table5_specification(configuration)
        case "report":
            return report_specification(configuration)
    return study_specification(configuration, job.study)


def specification_json(configuration: Configuration, path: str) -> str:
    """Return the specification as one line of JSON with sorted keys."""
    content = specification(configuration, path).model_dump(mode="json")
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def test_tasks(configuration: Configuration, partition: str) -> list[str]:
    """Return the meta-test tasks of a partition, or of all, in the order of the task list."""
    needs = configuration.needs
    chosen = needs.values() if partition == ALL_PARTITIONS else [needs[partition]]
    return _in_order(configuration, (roles["test"] for roles in chosen))


def _with_options(configuration: Configuration, key: str, tasks: Iterable[str]) -> list[str]:
    """Return those of some tasks whose options can be scored; raises UserError if none can."""
    found = [name for name in tasks if configuration.tasks[name].type != "free-form"]
    if not found:
        raise UserError(f"{key}: all its meta-test tasks are free-form, and options are needed")
    return found


def _in_order(configuration: Configuration, lists: Iterable[Iterable[str]]) -> list[str]:
    wanted = {name for names in lists for name in names}
    return [name for name in configuration.tasks if name in wanted]


def _benchmark(configuration: Configuration) -> PocketWorldSpec | BenchmarkDownload:
    values = configuration.values
    source = values.benchmark.tasks
    if source.source == "pocket":
        return PocketWorldSpec(**dict(values.pocket), pool=values.benchmark.pool)
    of_tasks = dict(listed_tasks(configuration))
    if values.benchmark.pool_files:
        of_tasks["pool"] = None  # it is elsewhere
    return BenchmarkDownload(repository=source.repository, revision=source.revision, **of_tasks)


def _tasks(configuration: Configuration) -> TasksSpec:
    needs = configuration.needs.values()
    return TasksSpec(
        train_tasks=_in_order(configuration, (roles["train"] for roles in needs)),
        test_tasks=_in_order(configuration, (roles["test"] for roles in needs)),
        seeds=configuration.values.benchmark.seeds,
        pool=configuration.values.benchmark.pool,
    )


def listed_tasks(configuration: Configuration) -> TasksSpec:
    """Return those that are not one's own: their rows come in MetaICL's layout."""
    tasks, own = _tasks(configuration), configuration.own_tasks
    return tasks.model_copy(
        update={
            side: [name for name in getattr(tasks, side) if name not in own]
            for side in ("train_tasks", "test_tasks")
        }
    )


def own_tasks_specification(configuration: Configuration) -> OwnTasksSpec:
    """Return the specification of the job that writes one's own tasks in MetaICL's layout."""
    benchmark, own = configuration.values.benchmark, configuration.own_tasks
    tasks, finetune = _tasks(configuration), configuration.values.training.finetune
    return OwnTasksSpec(
        tasks={name: benchmark.own_tasks[name].subset(OwnTaskRows) for name in own},
        train_tasks=[name for name in tasks.train_tasks if name in own],
        test_tasks=[name for name in tasks.test_tasks if name in own],
        seeds=tasks.seeds,
        shots=benchmark.shots,
        train_rows=training_shots(configuration.values) + finetune.queries_per_episode,
        pool=tasks.pool,
    )


def _chunks(configuration: Configuration, llm: str) -> ChunksSpec:
    values = configuration.values
    source, corpus = values.llms[llm], values.benchmark.corpus
    return ChunksSpec(
        llm=source.subset(TokenizerSource),
        window=corpus.window,
        documents=corpus.documents,
        pretraining_chunks=values.protocol.pretraining_chunks,
        column=corpus.column,
    )


def _training_episodes(configuration: Configuration, partition: str) -> TrainingEpisodesSpec:
    values = configuration.values
    stages = [
        method_setup(values, llm, method, DEFAULT).stages.get("finetune")
        for llm in values.llms
        for method in values.methods.names()
    ]
    return TrainingEpisodesSpec(
        tasks=list(configuration.needs[partition]["train"]),
        shots=training_shots(values),
        queries_per_episode=values.training.finetune.queries_per_episode,
        episodes=max(stage.steps * stage.batch_size for stage in stages if stage),
        seed=values.benchmark.seed,
        task_sampling=values.protocol.task_sampling,
        label_names=values.training.finetune.label_names,
    )


def _evaluation_episodes(
    configuration: Configuration, sampling: str, split: str
) -> EvaluationEpisodesSpec:
    benchmark = configuration.values.benchmark
    spec = EvaluationEpisodesSpec(
        tasks=test_tasks(configuration, ALL_PARTITIONS),
        shots=benchmark.shots,
        seeds=benchmark.seeds,
        demonstrations_at_test=configuration.values.protocol.demonstrations_at_test,
        rows=benchmark.test_rows if split == "test" else None,
        seed=benchmark.seed,
    ).model_copy(update=parse_settings(sampling))
    if spec.selection == "dense":
        spec = spec.model_copy(update={"dense": benchmark.dense_retrieval})
    return spec


def _training(configuration: Configuration, job: JobPath) -> TrainingSpec:
    values = configuration.values
    setup = method_setup(values, job.llm, job.method, job.variant)
    if job.stage not in setup.stages:
        raise UserError(f"methods.{job.method} has no stage {job.stage}")
    stage = setup.stages[job.stage]
    stopping = stage.early_stopping
    if stopping:
        # The dev score needs each task's type to know its metric.
        partition = job.partition or stopping.partition
        tasks = test_tasks(configuration, partition)
        tasks = _with_options(configuration, f"early_stopping (null: none) by {partition}", tasks)
        stopping = EarlyStopping(
            every=stopping.every,
            patience=stopping.patience,
            rows_per_task=stopping.rows_per_task,
            seed=stopping.seed,
            tasks={task: configuration.tasks[task].type for task in tasks},
            metrics=values.protocol.metrics,
            option_score=values.protocol.option_score,
        )
    own = {key: getattr(stage, key) for key in TrainingSettings.model_fields if hasattr(stage, key)}
    training = TrainingSettings(
        **{
            **own,
            "early_stopping": stopping,
            "stage": job.stage,
            "seed": setup.seed,
            "partition": job.partition or None,
            "variant": job.variant,
        }
    )
    run = _run(configuration, job.llm, setup)
    objective = values.protocol.subset(LossSettings)
    if job.stage == "pretrain":
        objective = objective.model_copy(update={"distill_in_finetuning": None})
    return TrainingSpec(**dict(run), objective=objective, training=training)


def _choice(configuration: Configuration, job: JobPath) -> ChoiceSpec:
    run = {key: getattr(job, key) for key in ("llm", "method", "variant")}
    found = candidates(configuration.values, **run)
    if len(found) < 2:
        raise UserError(f"there is no job for {job}.spec.json: nothing is to be chosen")
    return ChoiceSpec(
        **run,
        partition=job.partition,
        candidates=[
            Candidate(variant=variant, settings=settings) for variant, settings in found.items()
        ],
    )


def _prediction(configuration: Configuration, job: JobPath) -> PredictionSpec:
    values = configuration.values
    how = parse_settings(job.condition)
    setup = method_setup(values, job.llm, job.method, job.variant)
    tasks, own = test_tasks(configuration, job.partition), values.benchmark.own_tasks
    predict = PredictionSettings(
        tasks=tasks,
        free_form={
            name: own[name].subset(FreeForm)
            for name in tasks
            if configuration.tasks[name].type == "free-form"
        },
        partition=job.partition,
        variant=job.variant,
        condition=job.condition,
        stage=next(reversed([*setup.stages]), None),
        perturbation=how.get("perturbation"),
        seed=values.benchmark.seed if "perturbation" in how else None,
        group=how.get("group"),
    )
    run = _run(configuration, job.llm, setup)
    changed = {}
    if "template" in how:
        changed["separators"] = values.templates[how["template"]]
    if longest := how.get("longest_context"):
        changed["longest_context"] = LongestContext(llm=longest, distiller=longest)
    parts = {**dict(run), "reading": run.reading.model_copy(update=changed)}
    between = parts["reading"].separators.demonstrations
    if predict.free_form and not between.strip(" "):
        raise UserError(
            f"protocol.separators.demonstrations: {between!r} does not tell where a generated "
            f"answer ends, and {next(iter(predict.free_form))} is a free-form task; write another, "
            'such as "\\n"'
        )
    scoring = values.protocol.subset(ScoringSettings)
    return PredictionSpec(**parts, scoring=scoring, predict=predict)


def _divergence(configuration: Configuration, job: JobPath) -> DivergenceSpec:
    specs = [
        dict(_prediction(configuration, run.path))
        for run in divergence_runs(configuration, job.study, job.llm)
    ]
    if not specs:
        raise UserError(f"there is no job for {job}.spec.json: there is nothing to measure")
    for of_run in specs:
        tasks = _with_options(configuration, f"studies.{job.study}", of_run["predict"].tasks)
        update = {"tasks": tasks, "free_form": {}}
        of_run["predict"] = of_run["predict"].model_copy(update=update)
    return DivergenceSpec(
        runs=[{key: of_run[key] for key in DivergenceRun.model_fields} for of_run in specs],
        dev_seed=configuration.values.benchmark.seeds[0],
    )


def _efficiency(configuration: Configuration, llm: str) -> EfficiencySpec:
    values = configuration.values
    run = _run(configuration, llm, method_setup(values, llm, "mend", DEFAULT))
    settings = EfficiencySettings(
        tasks={
            partition: _with_options(
                configuration, f"efficiency, {partition}", test_tasks(configuration, partition)
            )
            for partition in values.efficiency.partitions
            if partition in configuration.needs
        },
        seed=values.benchmark.seeds[0],
        prompt_length=values.methods["prompt-tuning"].length,
        methods=[
            _run(configuration, llm, method_setup(values, llm, name, DEFAULT)).method
            for name in values.efficiency.methods
        ],
        paper_llm=values.llms[llm].paper_llm,
    )
    return EfficiencySpec(**dict(run), efficiency=settings)


def _attention(configuration: Configuration, llm: str) -> AttentionSpec:
    values = configuration.values
    run = _run(configuration, llm, method_setup(values, llm, "mend", DEFAULT))
    settings = AttentionSettings(
        partition=values.attention.partition,
        tasks=_with_options(
            configuration, "attention", test_tasks(configuration, values.attention.partition)
        ),
        seed=values.benchmark.seeds[0],
        copy_length=values.attention.copy_length,
    )
    scoring = values.protocol.subset(ScoringSettings)
    return AttentionSpec(**dict(run), scoring=scoring, attention=settings)


def _run(configuration: Configuration, llm: str, setup: MethodSetup) -> RunSpec:
    """Return what every job of a run is told: its LLM, its method, and how both read."""
    values, source = configuration.values, _llm(configuration, llm)
    distiller = None
    if method_class(setup.name).distils:
        distiller = DistillerSource(
            **dict(values.llms[llm].distiller),
            local_files_only=source.local_files_only,
            **dict(values.protocol.subset(DistillerSettings)),
        )
    return RunSpec(
        llm=source,
        method=MethodSource(name=setup.name, settings=setup.own.model_dump()),
        distiller=distiller,
        reading=values.protocol.subset(ReadingSettings),
    )


def _llm(configuration: Configuration, name: str) -> LLMSource:
    return LLMSource(name=name, **dict(configuration.values.llms[name].subset(LLMLoading)))
