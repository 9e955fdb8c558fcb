"""The leaderboard: every run of every study, beside those that were tested on the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from mend.configuration.methods import method_class, method_names
from mend.configuration.paths import parse_settings, pretraining_variant, settings_text
from mend.configuration.specs.reporting import StudyRun, StudySpec
from mend.evaluation.prediction_table import CONTEXT_COSTS
from mend.evaluation.statistics import AVERAGE
from mend.reporting.training_costs import Record, commits

SEED = "training.seed"


class StudyResult(NamedTuple):
    """A study's specification, its table, and the records of its trainings and choices."""

    spec: StudySpec
    table: pd.DataFrame
    records: Sequence[Record]


class ComparedRows(NamedTuple):
    """What runs must share to be compared: an LLM, and the rows that they were tested on."""

    llm: str
    partitions: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]


def leaderboard(studies: Iterable[StudyResult]) -> list[dict[str, Any]]:
    """Return the runs of all studies in groups that compare: [{compared, rows}].

    Groups of an LLM come together, those of more partitions first. Rows, the best first, are
    {method, variant (without a training seed), condition, trained (whether anything is), mean,
    ci_low, ci_high, seeds, training_seeds, the costs of a context as in the study's table,
    parameters ((least, most) of a training), commits}. Of a run that several studies have, the one
    with the most training seeds counts.
    """
    groups: dict[ComparedRows, dict[tuple, dict[str, Any]]] = {}
    for study in studies:
        for key, row in _rows(study):
            own = groups.setdefault(key, {})
            place = row["method"], row["variant"], row["condition"]
            if place not in own or row["training_seeds"] > own[place]["training_seeds"]:
                own[place] = row
    llms = list(dict.fromkeys(key.llm for key in groups))
    order = sorted(groups, key=lambda key: (llms.index(key.llm), -len(key.partitions)))
    return [
        {
            "compared": key,
            "rows": sorted(groups[key].values(), key=lambda row: row["mean"], reverse=True),
        }
        for key in order
    ]


def _rows(study: StudyResult) -> Iterator[tuple[ComparedRows, dict[str, Any]]]:
    """Yield each point of a study in each partition, and where it was tested."""
    spec = study.spec
    axes = ["method"] if spec.layout == "matrix" else list(spec.axis_values)
    runs: dict[tuple, list[StudyRun]] = {}
    for run in spec.runs:
        point = [run.method] if spec.layout == "matrix" else [run.values[axis] for axis in axes]
        runs.setdefault((run.llm, *point), []).append(run)
    for row in study.table.to_dict("records"):
        if not (of_point := runs.get((row["llm"], *(row[axis] for axis in axes)))):
            continue  # a difference
        whole = row["partition"] == AVERAGE
        partitions = tuple(spec.scored_partitions) if whole else (row["partition"],)
        tasks = sorted({task for name in partitions for task in spec.test_tasks[name]})
        key = ComparedRows(row["llm"], partitions, tuple(tasks), tuple(spec.seeds))
        yield key, _row(row, of_point, study.records, partitions)


def _row(
    row: dict[str, Any],
    runs: Sequence[StudyRun],
    records: Sequence[Record],
    partitions: Sequence[str],
) -> dict[str, Any]:
    first = runs[0]
    settings = parse_settings(first.variant)
    settings.pop(SEED, None)
    variants = {one for run in runs for one in (run.variant, pretraining_variant(run.variant))}
    own = [
        record
        for record in records
        if (record["llm"], record["method"]) == (first.llm, first.method)
        and record.get("variant") in variants
        and record.get("partition") in (None, *partitions)
    ]
    parameters = [
        record["parameters_trained"] for record in own if record.get("parameters_trained")
    ]
    return {
        "method": first.method,
        "variant": settings_text(settings),
        "condition": first.condition,
        "trained": first.method not in method_names() or method_class(first.method).is_trained(),
        **{name: row[name] for name in ("mean", "ci_low", "ci_high", *CONTEXT_COSTS)},
        "seeds": int(row["seeds"]),
        "training_seeds": int(row["training_seeds"]),
        "parameters": (min(parameters), max(parameters)) if parameters else None,
        "commits": commits(own),
    }
