"""Specifications of the jobs that turn the predictions of a study into tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mend.configuration.claims import Claim, Value
from mend.configuration.loading import Configuration
from mend.configuration.paths import parse_settings
from mend.configuration.runs import (
    chosen_folder,
    method_setup,
    study_axes,
    study_points,
    study_runs,
    trained_stages,
    training_seeds,
    usual_variant,
)
from mend.configuration.schema import given
from mend.configuration.specs.chunks import TokenizerSource
from mend.configuration.specs.reading import ReadingSettings
from mend.configuration.specs.reporting import (
    CountedLLM,
    StageSettings,
    StudyRun,
    StudySpec,
    Table1Spec,
    Table5Spec,
)


def study_specification(configuration: Configuration, study: str) -> StudySpec:
    """Return the specification of a study's table: its axes, its runs, and what is compared."""
    values = configuration.values
    content, protocol = values.studies[study], values.protocol
    axes = {name: _alike(points) for name, points in study_axes(values, study).items()}
    partitions = content.partitions
    tasks = {name: list(configuration.needs.get(name, {}).get("test", ())) for name in partitions}
    listed = {name: configuration.listed_test_tasks.get(name, ()) for name in partitions}
    return StudySpec(
        name=study,
        title=content.title or study,
        command=command(configuration, f"{configuration.results}/{study}.csv"),
        benchmark=values.benchmark.tasks.source,
        layout=content.layout or ("matrix" if study == "table2" else "list"),
        llms=[{"name": name, "paper_llm": values.llms[name].paper_llm} for name in content.llms],
        partitions=partitions,
        test_tasks=tasks,
        task_types={
            name: configuration.tasks[name].type for names in tasks.values() for name in names
        },
        free_form={
            name: own.metric
            for name, own in values.benchmark.own_tasks.items()
            if own.type == "free-form" and any(name in names for names in tasks.values())
        },
        seeds=values.benchmark.seeds,
        training_seeds=training_seeds(values, study),
        axes=[{"name": name, "values": points} for name, points in axes.items()],
        runs=[
            StudyRun(**{**point._asdict(), "values": _place(point.values, axes)})
            for point in study_points(values, study)
        ],
        shared=given(content.set),
        reference=_place(content.reference or {}, axes),
        claims=[
            Claim(
                text=claim.text,
                higher=_place(claim.higher, axes),
                lower=_place(claim.lower, axes),
                margin=claim.margin,
            )
            for claim in content.claims
            if _is_of(claim, axes)
        ],
        score=content.score,
        context_share_of=content.context_share_of,
        paper=content.paper,
        metrics=protocol.metrics,
        task_mean=protocol.task_mean,
        drop_tasks_in_both=protocol.drop_tasks_in_both,
        skipped=_named({name: sorted({*listed[name]} - {*tasks[name]}) for name in partitions}),
        excluded=_named(protocol.excluded_test_tasks),
        in_both=_named(
            {
                partition: [
                    name
                    for name in names
                    if "train" in configuration.tasks[name].roles.get(partition, ())
                ]
                for partition, names in tasks.items()
            }
        ),
    )


def _alike(values: Iterable[Value]) -> list[Value]:
    """Return the values of an axis: as text, unless all are numbers."""
    values = list(values)
    numbers = all(isinstance(value, (int, float)) for value in values)
    return values if numbers else [str(value) for value in values]


def _place(point: Mapping[str, Any], axes: Mapping[str, Sequence[Value]]) -> dict[str, Any]:
    """Return values of axes (or lists of them) as the axes have them."""

    def alike(axis: str, value: Any) -> Any:
        if isinstance(value, list):
            return [alike(axis, item) for item in value]
        return str(value) if isinstance(axes[axis][0], str) else value

    return {axis: alike(axis, point[axis]) for axis in axes if axis in point}


def _is_of(claim: Claim, axes: Mapping[str, Sequence[Value]]) -> bool:
    """Whether the study has the runs that a claim is about: it may leave methods out."""
    sides = [side for pair in claim.pairs() for side in pair]
    return all(side.get("run", axes["run"][0]) in axes["run"] for side in sides)


def _named(names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {key: list(found) for key, found in names.items() if found}


def study_stages(configuration: Configuration, study: str) -> list[str]:
    """Return the folders of the stages that a study's runs are trained in."""
    folders = [
        folder
        for run in study_runs(configuration, study)
        for folder in trained_stages(
            configuration.values, run.llm, run.method, run.variant, run.partition
        )
    ]
    return list(dict.fromkeys(folders))


def study_choices(configuration: Configuration, study: str) -> list[str]:
    """Return the folders of what dev scores choose for a study's runs."""
    folders = [
        chosen_folder(configuration.values, run.llm, run.method, run.variant, run.partition)
        for run in study_runs(configuration, study)
    ]
    return list(dict.fromkeys(filter(None, folders)))


def table1_specification(configuration: Configuration) -> Table1Spec:
    """Return the specification of table 1: each side of each partition and what reads its rows."""
    values = configuration.values
    return Table1Spec(
        command=command(configuration, f"{configuration.results}/table1.csv"),
        benchmark=values.benchmark.tasks.source,
        llms=[
            CountedLLM(name=name, **dict(values.llms[name].subset(TokenizerSource)))
            for name in values.studies["table2"].llms
        ],
        partitions=list(configuration.needs),
        tasks={
            partition: {side: list(names) for side, names in roles.items()}
            for partition, roles in configuration.needs.items()
        },
        seeds=values.benchmark.seeds,
        reading=values.protocol.subset(ReadingSettings),
    )


def table5_specification(configuration: Configuration) -> Table5Spec:
    """Return the specification of table 5: the settings of each stage of table 2's methods."""
    values, runs = configuration.values, []
    for llm in values.studies["table2"].llms:
        source = values.llms[llm]
        for method in values.studies["table2"].methods:
            variant = usual_variant(values, llm, method)
            setup = method_setup(values, llm, method, variant)
            for stage, settings in setup.stages.items():
                of_stage = setup.own.model_dump() | given(settings)
                of_stage |= {"dtype": source.dtype, "int8": source.int8}
                to_choose = {
                    key.removeprefix(f"{stage}."): value
                    for key, value in parse_settings(variant).items()
                    if isinstance(value, list)
                }
                runs.append(
                    StageSettings(
                        llm=llm,
                        method=method,
                        stage=stage,
                        settings=flat(of_stage),
                        candidates={k: v for k, v in to_choose.items() if k in flat(of_stage)},
                    )
                )
    return Table5Spec(
        command=command(configuration, f"{configuration.results}/table5.csv"),
        runs=runs,
        seed=values.training.seed,
    )


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{before}{key}."))
        else:
            found[f"{before}{key}"] = value
    return found


def command(configuration: Configuration, target: str, *options: str) -> str:
    """Return the command that makes a target with this configuration."""
    text = " ".join(["snakemake", *(options or ("--cores all",)), target])
    if configuration.files and list(configuration.files) != ["config.yaml"]:
        text += f" --configfile {' '.join(configuration.files)}"
    return text
