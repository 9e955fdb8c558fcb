"""What the report is made of: a configuration's results, in the paper's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mend.configuration.loading import Configuration
from mend.configuration.presets import fidelity, preset_value
from mend.configuration.runs import attention_runs, trained_stages
from mend.configuration.schema import ConfigurationValues
from mend.configuration.specs.reporting import ReportPart, ReportSpec
from mend.configuration.study_specs import command, study_choices, study_stages

PAPER_ORDER = (
    "table1",
    "table2",
    "figure3",
    "figure4",
    "table3",
    "figure5",
    "table4",
    "table5",
    "figure6",
    "figure7",
    "figure8",
    "table6",
    "table7",
)
TABLES = ("table1", "table5")
"""Tables that are no studies."""


def _corpus(configuration: Configuration) -> str:
    """Return what text is pretrained on, in words."""
    corpus = configuration.values.benchmark.corpus
    match corpus.source:
        case "pocket":
            return "generated documents of the pocket world"
        case "hub":
            return f"{', '.join(corpus.files)} of {corpus.repository}, revision {corpus.revision}"
        case "meta-train":
            return (
                f"the inputs of the meta-train rows of {len(configuration.text_tasks)} tasks, of "
                "none that is a meta-test task of a partition, and of no meta-test row; no other "
                "text"
            )
    return f"{', '.join(corpus.files)} in a folder"


def report_specification(configuration: Configuration) -> ReportSpec:
    """Return the specification of the report."""
    parts = list(_parts(configuration))
    names = {part.name for part in parts}
    report = f"{configuration.results}/report.html"
    efficiency = configuration.values.efficiency
    return ReportSpec(
        command=command(configuration, report),
        rulegraph_command=command(configuration, report, "--rulegraph", "mermaid-js"),
        results=configuration.results,
        benchmark=configuration.values.benchmark.tasks.source,
        corpus=_corpus(configuration),
        files=list(configuration.files),
        preset=configuration.values.protocol.preset,
        differences=list(_differences(configuration)),
        parts=parts,
        absent=[name for name in PAPER_ORDER if name not in names],
        stages=report_stages(configuration),
        study_stages={
            name: study_stages(configuration, name) for name in configuration.values.studies
        },
        study_choices={
            name: study_choices(configuration, name) for name in configuration.values.studies
        },
        cost_claims=efficiency.claims if efficiency else [],
    )


def report_files(configuration: Configuration) -> list[str]:
    """Return what the report reads, below the results folder."""
    files = []
    for part in _parts(configuration):
        for name in part.tables:
            files += [f"{name}.parquet", f"{name}.spec.json"]
            files += [f"{name}.details.json"] * (name not in TABLES)
        files += [f"{name}.png" for name in part.pictures]
        files += ["figure3.parquet"] * (part.name == "figure3")
    choices = all_choices(configuration)
    files += [f"{folder}/record.json" for folder in choices]
    files += ["candidates.parquet"] * bool(choices)
    return files + [f"{stage}/record.json" for stage in report_stages(configuration)]


def all_choices(configuration: Configuration) -> list[str]:
    """Return the folder of each choice by dev scores that any study needs."""
    names = configuration.values.studies
    folders = [folder for name in names for folder in study_choices(configuration, name)]
    return list(dict.fromkeys(folders))


def report_stages(configuration: Configuration) -> list[str]:
    """Return the folder of each stage that anything needs trained."""
    stages = [
        stage
        for name in configuration.values.studies
        for stage in study_stages(configuration, name)
    ]
    values = configuration.values
    for llm, method, variant, _ in attention_runs(values):
        stages += trained_stages(values, llm, method, variant, values.attention.partition)
    return list(dict.fromkeys(stages))


def pictured_alone(values: ConfigurationValues) -> list[str]:
    """Return the studies that vary something and are part of no figure: each is its own picture."""
    drawn = {study for studies in values.figures.values() for study in studies}
    return [name for name, study in values.studies.items() if study.axes and name not in drawn]


def study_pictures(values: ConfigurationValues, study: str) -> list[str]:
    """Return the names of the pictures of a study's runs, beside that of its numbers."""
    return [f"{study}.{kind}" for kind in values.studies[study].pictures]


def _parts(configuration: Configuration) -> Iterator[ReportPart]:
    figures, alone = configuration.values.figures, pictured_alone(configuration.values)
    in_figures = [study for studies in figures.values() for study in studies]
    found = {name: _part(configuration, name, [name], []) for name in TABLES}
    if configuration.values.efficiency:
        found["figure3"] = _part(configuration, "figure3", [], ["figure3"])
    if configuration.values.attention:
        for name in ("figure5", "figure8"):
            found[name] = _part(configuration, name, [], [name])
    shown: set[str] = set()
    for name, studies in figures.items():
        # The table of a study that several figures show stands with the first.
        tables = [study for study in studies if study not in shown]
        shown.update(tables)
        pictures = [name, *_pictures_of(configuration, tables)]
        found[name] = _part(configuration, name, tables, pictures, studies)
    for name in configuration.values.studies:
        if name not in in_figures and name not in TABLES:
            pictures = [name] * (name in alone) + _pictures_of(configuration, [name])
            found[name] = _part(configuration, name, [name], pictures)
    first = [name for name in PAPER_ORDER if name in found]
    yield from (found[name] for name in dict.fromkeys([*first, *found]))


def _pictures_of(configuration: Configuration, studies: Iterable[str]) -> list[str]:
    values = configuration.values
    return [name for study in studies for name in study_pictures(values, study)]


def _part(
    configuration: Configuration,
    name: str,
    tables: Iterable[str],
    pictures: Iterable[str],
    studies: Iterable[str] = (),
) -> ReportPart:
    targets = [f"{configuration.results}/{picture}.png" for picture in pictures]
    return ReportPart(
        name=name,
        title=getattr(configuration.values.studies.get(name), "title", None),
        tables=list(tables),
        pictures=list(pictures),
        studies=list(studies),
        commands=[command(configuration, target) for target in targets],
    )


def _differences(configuration: Configuration) -> Iterator[dict[str, Any]]:
    """Yield the choices of docs/fidelity.md that are not those of the preset `default`."""
    values = configuration.values.model_dump(by_alias=True)
    for key, entry in fidelity().items():
        names = key.split(".") if "." in key else ["protocol", key]
        for place, value in _values_at(values, names):
            llm = values["llms"][place[1]] if place[0] == "llms" else {}
            default = preset_value(entry, "default", llm.get("paper_llm"))
            if value != default:
                yield {"key": ".".join(place), "value": value, "default": default}


def _values_at(values: Any, names: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Yield (place, value) at a dotted place, `*` standing for every key."""
    if not names:
        yield [], values
    elif isinstance(values, Mapping):
        for key in values if names[0] == "*" else [names[0]]:
            for place, value in _values_at(values[key], names[1:]) if values.get(key) else ():
                yield [key, *place], value
