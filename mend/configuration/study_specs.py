"""Specifications of the jobs that turn the predictions of a study into tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mend.configuration.claims import Claim, Value
from mend.configuration.loading import Configuration
from mend.configuration.runs import (
    DEFAULT,
    STAGES,
    method_settings,
    study_axes,
    study_points,
    study_runs,
    trained_stages,
)
from mend.configuration.specs.reporting import StudySpec, Table1Spec, Table5Spec


def study_specification(configuration: Configuration, study: str) -> StudySpec:
    """Return the specification of a study's table: its axes, its runs, and what is compared."""
    content = configuration["studies"][study]
    benchmark, protocol = configuration["benchmark"], configuration["protocol"]
    axes = {name: _alike(values) for name, values in study_axes(configuration, study).items()}
    partitions = content["partitions"]
    tasks = {name: list(configuration.needs.get(name, {}).get("test", ())) for name in partitions}
    listed = {name: configuration.listed_test_tasks.get(name, ()) for name in partitions}
    return StudySpec(
        name=study,
        title=content.get("title", study),
        command=command(configuration, f"{configuration.results}/{study}.csv"),
        benchmark=benchmark["tasks"]["source"],
        layout=content.get("layout", "matrix" if study == "table2" else "list"),
        llms=[
            {"name": name, "paper_llm": configuration["llms"][name].get("paper_llm")}
            for name in content["llms"]
        ],
        partitions=partitions,
        test_tasks=tasks,
        task_types={
            name: configuration.tasks[name].type for names in tasks.values() for name in names
        },
        seeds=benchmark["seeds"],
        axes=[{"name": name, "values": values} for name, values in axes.items()],
        runs=[
            {
                "llm": llm,
                "method": method,
                "variant": variant,
                "condition": condition,
                "values": _place(point, axes),
            }
            for llm, method, variant, condition, point in study_points(configuration, study)
        ],
        shared=content.get("set", {}),
        reference=_place(content.get("reference") or {}, axes),
        claims=[
            {**claim, **{side: _place(claim[side], axes) for side in ("higher", "lower")}}
            for claim in content.get("claims", ())
            if _is_of(claim, axes)
        ],
        score=content.get("score", "mean"),
        context_share_of=content.get("context_share_of"),
        paper=content.get("paper"),
        **only(protocol, ("metrics", "task_mean", "drop_tasks_in_both")),
        skipped=_named({name: sorted({*listed[name]} - {*tasks[name]}) for name in partitions}),
        excluded=_named(protocol.get("excluded_test_tasks", {})),
        in_both=_named(
            {
                partition: [
                    name for name in names if "train" in configuration.tasks[name].roles[partition]
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


def _is_of(claim: Mapping[str, Any], axes: Mapping[str, Sequence[Value]]) -> bool:
    """Whether the study has the runs that a claim is about: it may leave methods out."""
    pairs = Claim(**claim).pairs()
    return all(side.get("run", axes["run"][0]) in axes["run"] for pair in pairs for side in pair)


def _named(names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {key: list(found) for key, found in names.items() if found}


def study_stages(configuration: Configuration, study: str) -> list[str]:
    """Return the folders of the stages that a study's runs are trained in."""
    folders = [
        folder
        for run in study_runs(configuration, study)
        for folder in trained_stages(configuration, run.llm, run.method, run.variant, run.partition)
    ]
    return list(dict.fromkeys(folders))


def table1_specification(configuration: Configuration, reading: Mapping[str, Any]) -> Table1Spec:
    """Return the specification of table 1: each side of each partition and what reads its rows."""
    llms = configuration["studies"]["table2"]["llms"]
    keys = ("path", "revision", "local_files_only")
    return Table1Spec(
        command=command(configuration, f"{configuration.results}/table1.csv"),
        benchmark=configuration["benchmark"]["tasks"]["source"],
        llms=[{"name": name, **only(configuration["llms"][name], keys)} for name in llms],
        partitions=list(configuration.needs),
        tasks={
            partition: {side: list(names) for side, names in roles.items()}
            for partition, roles in configuration.needs.items()
        },
        seeds=configuration["benchmark"]["seeds"],
        reading=reading,
    )


def table5_specification(configuration: Configuration) -> Table5Spec:
    """Return the specification of table 5: the settings of each stage of table 2's methods."""
    study = configuration["studies"]["table2"]
    runs = []
    for llm in study["llms"]:
        source = configuration["llms"][llm]
        shared = {"dtype": source.get("dtype", "float32"), "int8": source.get("int8", False)}
        for method in study["methods"]:
            settings = method_settings(configuration, llm, method, DEFAULT)
            for stage in (name for name in STAGES if name in settings):
                of_stage = {"length": settings["length"], **settings[stage], **shared}
                runs.append(
                    {"llm": llm, "method": method, "stage": stage, "settings": flat(of_stage)}
                )
    return Table5Spec(
        command=command(configuration, f"{configuration.results}/table5.csv"),
        runs=runs,
        seed=configuration["training"]["seed"],
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


def only(values: Any, keys: Iterable[str]) -> dict[str, Any]:
    """Return the part of a mapping with these keys, as far as they are there."""
    return {key: values[key] for key in keys if key in values}
