"""What the report is made of: a configuration's results, in the paper's order, and its rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mend.configuration.loading import Configuration
from mend.configuration.presets import fidelity
from mend.configuration.runs import (
    DEFAULT,
    STAGES,
    default_condition,
    draw_of,
    method_settings,
    study_runs,
    trained_stages,
)
from mend.configuration.study_specs import command
from mend.configuration.teachers import teacher_path

PAPER_ORDER = (
    *("table1", "table2", "figure3", "figure4", "table3", "figure5", "table4"),
    *("table5", "figure6", "figure7", "figure8", "table6", "table7"),
)
RESULTS = (
    *("table1", "table2", "table5", "study"),
    *("figure3", "attention_figure", "figure", "study_figure"),
)
"""Rules that make tables and figures."""

FIXED_TABLES = ("table1", "table2", "table5")
TRAINING_FILES = ("record.json", "metrics.jsonl")


def report_specification(configuration: Configuration) -> dict[str, Any]:
    """Return the specification of the report.

    parts: its results, the paper's first and in its order: {name, title, tables, pictures,
    commands}, names without endings, and studies: those that its picture shows; absent: those of
    the paper that the configuration lacks; runs: the folders of all trained stages; rules: of
    `workflow_rules`; differences: the choices that are not the default's, [{key, value, default}].
    """
    parts = list(_parts(configuration))
    names = {part["name"] for part in parts}
    return {
        "command": command(configuration, f"{configuration.results}/report.html"),
        "results": configuration.results,
        "benchmark": configuration["benchmark"]["tasks"]["source"],
        "files": list(configuration.files),
        "preset": configuration["protocol"].get("preset", "default"),
        "differences": list(_differences(configuration)),
        "parts": parts,
        "absent": [name for name in PAPER_ORDER if name not in names],
        "runs": list(stages_of(configuration)),
        "rules": workflow_rules(configuration),
    }


def report_files(configuration: Configuration) -> list[str]:
    """Return what the report reads, below the results folder."""
    files = []
    for part in _parts(configuration):
        for name in part["tables"]:
            files += [f"{name}.html", f"{name}.parquet", f"{name}.spec.json"]
            files += [f"{name}.claims.json"] * (name not in FIXED_TABLES)
        files += [f"{name}.png" for name in part["pictures"]]
        files += ["figure3.parquet"] * (part["name"] == "figure3")
    stages = stages_of(configuration)
    return files + [f"{stage}/{name}" for stage in stages for name in TRAINING_FILES]


def stages_of(configuration: Configuration) -> dict[str, dict[str, Any]]:
    """Return the folder of each stage that anything needs trained, with its settings.

    And with teacher_states: where its teacher's states are kept, or None.
    """
    places = [
        (run.llm, run.method, run.variant, run.partition)
        for study in configuration["studies"]
        for run in study_runs(configuration, study)
    ]
    if looked_at := configuration.values.get("attention"):
        places += [(llm, "mend", DEFAULT, looked_at["partition"]) for llm in looked_at["llms"]]
    stages = {}
    for llm, method, variant, partition in dict.fromkeys(places):
        settings = method_settings(configuration, llm, method, variant)
        names = [stage for stage in STAGES if stage in settings]
        folders = trained_stages(configuration, llm, method, variant, partition)
        for folder, stage in zip(folders, names, strict=True):
            states = teacher_path(configuration.values, llm, method, variant, stage, partition)
            stages[folder] = {**settings[stage], "teacher_states": states}
    return stages


def workflow_rules(configuration: Configuration) -> list[dict[str, Any]]:
    """Return the rules of everything, each after those that it reads from.

    [{rule, jobs, after: rules, result: whether it makes a table or a figure}]. The rule `spec`,
    which writes the settings of each job, is left out, and so are targets.
    """
    stages = stages_of(configuration)
    runs = [run for study in configuration["studies"] for run in study_runs(configuration, study)]
    folders = {stage: [f for f in stages if f.endswith(f"/{stage}")] for stage in STAGES}
    teachers = {
        stage: {stages[folder]["teacher_states"] for folder in folders[stage]} - {None}
        for stage in STAGES
    }
    stopping = {stage: any(stages[f]["early_stopping"] for f in folders[stage]) for stage in STAGES}
    efficiency, attention = (
        len(configuration.values.get(part, {}).get("llms", ()))
        for part in ("efficiency", "attention")
    )
    usual = draw_of(default_condition(configuration))
    draws = {draw_of(run.condition) for run in runs} | {usual}
    pictures = [len(names) for names in _pictures(configuration)]
    benchmark = configuration["benchmark"]
    sources = {"pocket": "pocket_world", "hub": "download_benchmark"}
    corpora = {"pocket": "pocket_world", "hub": "download_corpus"}
    rows, text = (
        sources.get(benchmark["tasks"]["source"]),
        corpora.get(benchmark["corpus"]["source"]),
    )
    made_here = f"{configuration.results}/local-models/"
    local = any(configuration["llms"][run.llm]["path"].startswith(made_here) for run in runs)
    models = "local_models" if local else None
    chunks = len({folder.split("/")[1] for folder in folders["pretrain"]})
    dev = "evaluation_episodes"
    rules = {
        rows: (1, []),
        text: (1 if chunks else 0, []),
        models: (1, [rows]),
        "tasks": (1, [rows]),
        "chunks": (chunks, [text, models]),
        "train_episodes": (len({f.split("/")[4] for f in folders["finetune"]}), ["tasks"]),
        "evaluation_episodes": (len(draws) + any(stopping.values()), ["tasks"]),
        "pretraining_teacher": (len(teachers["pretrain"]), ["chunks", models]),
        "finetuning_teacher": (len(teachers["finetune"]), ["train_episodes", models]),
        "pretrain": (
            len(folders["pretrain"]),
            ["chunks", "pretraining_teacher", dev if stopping["pretrain"] else None],
        ),
        "finetune": (
            len(folders["finetune"]),
            [
                *("train_episodes", "finetuning_teacher", "pretrain"),
                dev if stopping["finetune"] else None,
            ],
        ),
        "predict": (
            len({run.folder for run in runs}),
            ["evaluation_episodes", "finetune", "pretrain", models],
        ),
        "efficiency_of": (efficiency, ["evaluation_episodes", models]),
        "attention": (attention, ["evaluation_episodes", "finetune"]),
        "table1": (1, ["tasks", models]),
        "table2": (1, ["predict"]),
        "table5": (1, []),
        "study": (len(configuration["studies"]) - 1, ["predict"]),
        "figure3": (1 if efficiency else 0, ["efficiency_of"]),
        "attention_figure": (2 if attention else 0, ["attention"]),
        "figure": (pictures[0], ["study"]),
        "study_figure": (pictures[1], ["study"]),
    }
    there = [rule for rule, (jobs, _) in rules.items() if rule and jobs]
    found = [
        {
            **{"rule": rule, "jobs": rules[rule][0], "result": rule in RESULTS},
            "after": [source for source in rules[rule][1] if source in there],
        }
        for rule in there
    ]
    return [*found, {"rule": "report_page", "jobs": 1, "after": there, "result": True}]


def _pictures(configuration: Configuration) -> tuple[dict[str, list[str]], list[str]]:
    """Return figures with their studies, and the studies that are a picture of their own."""
    figures = configuration.values.get("figures", {})
    drawn = {study for studies in figures.values() for study in studies}
    studies = configuration["studies"]
    alone = [name for name in studies if "vary" in studies[name] and name not in drawn]
    return figures, alone


def _parts(configuration: Configuration) -> Iterator[dict[str, Any]]:
    figures, alone = _pictures(configuration)
    in_figures = [study for studies in figures.values() for study in studies]
    found = {name: _part(configuration, name, [name], []) for name in FIXED_TABLES}
    if configuration.values.get("efficiency"):
        found["figure3"] = _part(configuration, "figure3", [], ["figure3"])
    if configuration.values.get("attention"):
        for name in ("figure5", "figure8"):
            found[name] = _part(configuration, name, [], [name])
    shown: set[str] = set()
    for name, studies in figures.items():
        # The table of a study that several figures show stands with the first.
        tables = [study for study in studies if study not in shown]
        shown.update(tables)
        found[name] = {**_part(configuration, name, tables, [name]), "studies": list(studies)}
    for name in configuration["studies"]:
        if name not in in_figures and name not in FIXED_TABLES:
            found[name] = _part(configuration, name, [name], [name] if name in alone else [])
    first = [name for name in PAPER_ORDER if name in found]
    yield from (found[name] for name in dict.fromkeys([*first, *found]))


def _part(
    configuration: Configuration, name: str, tables: Iterable[str], pictures: Iterable[str]
) -> dict[str, Any]:
    targets = [f"{configuration.results}/{picture}.png" for picture in pictures]
    title = configuration["studies"].get(name, {}).get("title")
    return {
        "name": name,
        "title": title,
        "tables": list(tables),
        "pictures": list(pictures),
        "studies": [],
        "commands": [command(configuration, target) for target in targets],
    }


def _differences(configuration: Configuration) -> Iterator[dict[str, Any]]:
    """Yield the choices of docs/fidelity.md that are not those of the preset `default`."""
    for key, entry in fidelity().items():
        names = key.split(".") if "." in key else ["protocol", key]
        for place, value in _values_at(configuration.values, names):
            if value != entry["default"]:
                yield {"key": ".".join(place), "value": value, "default": entry["default"]}


def _values_at(values: Any, names: list[str]) -> Iterator[tuple[list[str], Any]]:
    """Yield (place, value) at a dotted place, `*` standing for every key."""
    if not names:
        yield [], values
    elif isinstance(values, Mapping):
        for key in values if names[0] == "*" else [names[0]]:
            for place, value in _values_at(values[key], names[1:]) if key in values else ():
                yield [key, *place], value
