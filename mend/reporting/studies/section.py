"""Laying out a study as HTML; the markup is in `templates/study_section.html.j2`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from mend.configuration.claims import Point
from mend.configuration.display_names import method_display_name, partition_display_name
from mend.configuration.specs.reporting import StudyRun, StudySpec
from mend.errors import UserError
from mend.evaluation.prediction_table import CONTEXT_COSTS
from mend.evaluation.statistics import AVERAGE, BOOTSTRAP_SAMPLES
from mend.paper import paper_llms, paper_table
from mend.provenance import replaced_text
from mend.reporting.pages import (
    drawing_scale,
    marks,
    paper_text,
    render,
)
from mend.reporting.studies.names import axis_display_name, point_text, reference_text, value_text
from mend.reporting.studies.numbers import BREAK_EVEN, DIFFERENCE, points_of
from mend.reporting.training_costs import commits, same_steps, training_costs, versions

Details = Mapping[str, Sequence[Mapping[str, Any]]]
"""{claims, other_mean}: what `write_study` wrote beside the table."""

Places = Mapping[tuple, Mapping[str, Any]]
"""Rows by (LLM, the axes' values in order, partition)."""

Column = tuple[Point, str]
"""What a column adds to its rows' points, and its partition."""


def study_section(
    spec: StudySpec,
    table: pd.DataFrame,
    details: Details,
    records: Sequence[Mapping[str, Any]] = (),
    choices: Sequence[Mapping[str, Any]] = (),
    level: int = 2,
    changed: Sequence[str] = (),
) -> Markup:
    """The markup of a study: its table, differences, claims, and what was run.

    Without an axis beside `run`, columns are partitions and rows are runs. Otherwise columns are
    the last axis' values, rows the runs with the values of the axes between, and cells averages
    over the partitions, with each partition's numbers in a second table. `table` and `details` are
    what `write_study` wrote, `records` are of the training runs, `choices` of what dev scores chose
    among them; `level` is that of the heading; `changed` are inputs that were replaced since.
    Raises UserError for a `paper_llm` that the paper does not have.
    """
    axes, values = spec.axis_values, _by_place(spec, table)
    partitions = list(dict.fromkeys(table["partition"]))
    *between, last = axes
    by_partition = partition_grid(spec, table)
    rows, columns = points_of(axes), [({}, partition) for partition in partitions]
    grids = {"main": by_partition}
    if between:
        rows = points_of({axis: axes[axis] for axis in between})
        columns = [({last: value}, partitions[-1]) for value in axes[last]]
        grids["main"] = _grid(spec, values, _paper(spec, table), rows, columns)
        if len(partitions) > 1:
            grids["partitions"] = by_partition
    if spec.reference:
        # Without what is nothing but the reference itself.
        rows = [row for row in rows if not spec.reference.items() <= row.items()]
        columns = [at for at in columns if not spec.reference.items() <= at[0].items()]
        grids["differences"] = _grid(spec, values, {}, rows, columns)
    elif spec.layout == "matrix":
        grids["differences"] = _claimed(spec, table, grids["main"]["heads"])
    return render(
        "study_section.html.j2",
        spec=spec,
        level=level,
        grids=grids,
        axis=axis_display_name(last) if between else None,
        partitions=[name for name in partitions if name != AVERAGE],
        reference=reference_text(spec.reference),
        replaced=replaced_text(changed) if changed else None,
        conditions=unlike_conditions(spec),
        paper_shown=bool(_paper(spec, table)),
        blocks=claim_blocks(spec, table, details["claims"]),
        other_mean=_other_mean(spec, values, details["other_mean"]),
        bootstrap_samples=BOOTSTRAP_SAMPLES,
        contexts=_contexts(spec, values),
        infinity=math.inf,
        choices=_choices(spec, choices),
        runs=_runs(spec),
        costs=training_costs(records, [run.method for run in spec.runs]),
        same_steps=same_steps(records) if spec.layout == "matrix" else None,
        commits=commits(records),
        versions=versions(records),
    )


def _contexts(spec: StudySpec, values: Places) -> list[dict[str, Any]]:
    """What contexts cost: [{llm, name, and the table's numbers}], on AVG or the only partition.

    Points of a run that cost the same are one row.
    """
    partition = [row["partition"] for row in values.values()][-1]
    rows: list[dict[str, Any]] = []
    for llm in spec.llms:
        runs: dict[str, list[dict[str, Any]]] = {}
        for point in points_of(spec.axis_values):
            row = values[(llm.name, *point.values(), partition)]
            costs = {name: row[name] for name in (*CONTEXT_COSTS, BREAK_EVEN) if name in row}
            runs.setdefault(point["run"], []).append({"name": point_text(point), **costs})
        for run, found in runs.items():
            alike = len({str([*row.values()][1:]) for row in found}) == 1
            shown = [{**found[0], "name": run}] if alike else found
            rows += [{"llm": llm.name, **row} for row in shown]
    return rows


def unlike_conditions(spec: StudySpec) -> dict[str, list[str]]:
    """Return how rows were evaluated, with their names, where they stand side by side unlike.

    Those that differ in another axis than `run` are labelled by it. Empty if all are alike.
    """
    groups: dict[tuple, dict[str, list[str]]] = {}
    for run in spec.runs:
        place = tuple(str(v) for axis, v in run.values.items() if axis != "run")
        names = groups.setdefault(place, {}).setdefault(run.condition, [])
        if (name := str(run.values["run"])) not in names:
            names.append(name)
    found: dict[str, list[str]] = {}
    for conditions in groups.values():
        if len(conditions) > 1:
            for condition, names in conditions.items():
                found[condition] = list(dict.fromkeys([*found.get(condition, []), *names]))
    return found


def _runs(spec: StudySpec) -> list[dict[str, str]]:
    """What was run at each point: once where training seeds change nothing."""
    rows = [
        {"name": point_text({axis: run.values[axis] for axis in spec.axis_values})}
        | {key: getattr(run, key) for key in ("llm", "method", "variant", "condition")}
        for run in spec.runs
    ]
    return [row for place, row in enumerate(rows) if row not in rows[:place]]


def _choices(spec: StudySpec, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every candidate's dev score: [{llm, name (of its runs), heads, rows: [{name, cells}]}].

    A row is a partition, and a training seed if there are several; a cell has dev_score, step (of
    the kept weights) and chosen. Candidates are in the order in which they were tried.
    """
    runs: dict[tuple, list[StudyRun]] = {}
    for run in spec.runs:
        runs.setdefault((run.llm, run.method, run.variant), []).append(run)
    groups: dict[tuple, dict[str, Any]] = {}
    for record in records:
        own = runs[record["llm"], record["method"], record["variant"]]
        names = ", ".join(dict.fromkeys(point_text(run.values) for run in own))
        heads = [point_text(candidate["settings"]) for candidate in record["candidates"]]
        group = {"llm": record["llm"], "name": names, "heads": heads, "rows": []}
        group = groups.setdefault((record["llm"], names, *heads), group)
        trained = f", training seed {own[0].training_seed}" * (len(spec.training_seeds) > 1)
        cells = [
            {**candidate, "chosen": candidate["variant"] == record["chosen"]}
            for candidate in record["candidates"]
        ]
        name = partition_display_name(record["partition"]) + trained
        group["rows"].append({"name": name, "cells": cells})
    return list(groups.values())


def partition_grid(spec: StudySpec, table: pd.DataFrame) -> dict[str, Any]:
    """Every point in each partition: {heads: [{name, tasks}], blocks: [{name, paper, rows}]}.

    A block is an LLM; its rows are [{name, cells}], a cell has the numbers of the table's row,
    paper (text) and mark, and the last is AVG, or the only partition.
    """
    columns = [({}, partition) for partition in dict.fromkeys(table["partition"])]
    points = points_of(spec.axis_values)
    return _grid(spec, _by_place(spec, table), _paper(spec, table), points, columns)


def _by_place(spec: StudySpec, table: pd.DataFrame) -> Places:
    if spec.layout == "matrix":
        runs = {run.method: run.values["run"] for run in spec.runs}
        table = table.assign(run=table["method"].map(runs)).dropna(subset="run")
    return _keyed(spec, table)


def _keyed(spec: StudySpec, table: pd.DataFrame) -> Places:
    return {
        (row["llm"], *(row[axis] for axis in spec.axis_values), row["partition"]): row
        for row in table.to_dict("records")
    }


def _paper(spec: StudySpec, table: pd.DataFrame) -> Places:
    """The paper's numbers by (our LLM, the axes' values, partition); none if its axes differ.

    Its AVG is over its own partitions; where ours are fewer, the mean over ours replaces it.
    """
    if not spec.paper:
        return {}
    if unknown := {llm.paper_llm for llm in spec.llms} - {None, *paper_llms()}:
        raise UserError(
            f"paper_llm: the paper has no {', '.join(sorted(unknown))}; "
            f"choose {', '.join(paper_llms())}, or null"
        )
    numbers, axes = paper_table(spec.paper), list(spec.axis_values)
    if set(axes) - set(numbers.columns) or len(numbers.columns) != len(axes) + 4:
        return {}
    printed = set(numbers["partition"]) - {AVERAGE}
    ours = set(table["partition"]) - {AVERAGE}
    if ours < printed:
        part = numbers[numbers["partition"].isin(ours)]
        means = part.groupby(["llm", *axes], as_index=False)["mean"].mean()
        numbers = pd.concat([part, means.assign(partition=AVERAGE)], ignore_index=True)
    found = {}
    for llm in spec.llms:
        own = numbers[numbers["llm"] == llm.paper_llm]
        found.update(_keyed(spec, own.assign(llm=llm.name)))
    return found


def _grid(
    spec: StudySpec,
    values: Places,
    paper: Places,
    rows: Sequence[Point],
    columns: Sequence[Column],
) -> dict[str, Any]:
    """Heads, and for each LLM rows of cells; the best of a column is marked, or of a single row."""
    blocks = []
    for llm in spec.llms:
        cells = []
        for row in rows:
            cells.append([])
            for point, partition in columns:
                place = (llm.name, *{**row, **point}.values(), partition)
                cell = {**values[place], "paper": paper_text(paper.get(place))}
                cells[-1].append({**cell, "average": partition == AVERAGE and not point})
        lines = zip(*cells, strict=True) if len(rows) > 1 else cells
        for line in lines if len(rows) > 1 or any(point for point, _ in columns) else ():
            for cell, mark in zip(line, marks([cell["mean"] for cell in line]), strict=True):
                cell["mark"] = mark
        names = map(point_text, rows)
        lines = [{"name": name, "cells": line} for name, line in zip(names, cells, strict=True)]
        blocks.append({"name": llm.name, "paper": llm.paper_llm, "rows": lines})
    tasks = {row["partition"]: row["tasks"] for row in values.values()}
    heads = [
        {"name": value_text(*point.values()), "tasks": None}
        if point
        else {"name": partition_display_name(partition), "tasks": tasks[partition]}
        for point, partition in columns
    ]
    return {"heads": heads, "blocks": blocks}


def _claimed(
    spec: StudySpec, table: pd.DataFrame, heads: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A grid of the differences that the claims of a matrix are about."""
    methods = {run.method for run in spec.runs}
    blocks = []
    for llm in spec.llms:
        own = table[(table["llm"] == llm.name) & ~table["method"].isin(methods)]
        rows = [
            {
                "name": method_display_name(name),
                "cells": [
                    {"average": row["partition"] == AVERAGE}
                    | {key: row[number] for key, number in DIFFERENCE.items()}
                    for row in of_pair.to_dict("records")
                ],
            }
            for name, of_pair in own.groupby("method", sort=False)
        ]
        blocks.append({"name": llm.name, "rows": rows})
    return {"heads": heads, "blocks": blocks}


def _other_mean(
    spec: StudySpec, values: Places, other: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Both means over tasks side by side, in the partitions where they differ."""
    if not other:
        return None
    rows: dict[tuple[str, str], list] = {}
    for row in other:
        ours = values[row["llm"], row["run"], row["partition"]]["mean"]
        rows.setdefault((row["llm"], row["run"]), []).append((ours, row["mean"]))
    return {
        "names": ("plain", "authors") if spec.task_mean == "plain" else ("authors", "plain"),
        "columns": [
            partition_display_name(name) for name in dict.fromkeys(r["partition"] for r in other)
        ],
        "rows": [{"llm": llm, "name": run, "cells": cells} for (llm, run), cells in rows.items()],
    }


def claim_blocks(
    spec: StudySpec, table: pd.DataFrame, claims: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The claims of each LLM that has any: [{name, paper (whether it has numbers), claims}].

    `claims` are of `mend.reporting.claims.judged`; their pairs get name, margin, paper (the paper's
    difference as text) and drawing (places on a scale of the LLM's own).
    """
    paper, partition = _paper(spec, table), table["partition"].iloc[-1]

    def papers(llm: str, point: Point) -> Mapping[str, Any] | None:
        return paper.get((llm, *(point[axis] for axis in spec.axis_values), partition))

    blocks = []
    for llm in spec.llms:
        own = [claim for claim in claims if claim["llm"] == llm.name]
        pairs = [(claim["margin"], pair) for claim in own for pair in claim["pairs"]]
        place = drawing_scale(
            end for margin, pair in pairs for end in (margin, pair["ci_low"], pair["ci_high"])
        )
        rows = []
        for claim in own:
            pairs = []
            for pair in claim["pairs"]:
                sides = [papers(llm.name, pair[side]) for side in ("higher", "lower")]
                printed = f"{sides[0]['mean'] - sides[1]['mean']:+.2f}" if all(sides) else ""
                drawing = {key: place(pair[key]) for key in ("mean", "ci_low", "ci_high")}
                pairs.append(
                    {
                        **pair,
                        "name": _pair_name(pair),
                        "margin": claim["margin"],
                        "paper": printed,
                        "drawing": {**drawing, "margin": place(claim["margin"])},
                    }
                )
            rows.append({**claim, "pairs": pairs})
        if rows:
            shown = any(pair["paper"] for row in rows for pair in row["pairs"])
            blocks.append({"name": llm.name, "paper": shown, "claims": rows})
    return blocks


def _pair_name(pair: Mapping[str, Any]) -> str:
    """Where a claim is judged, and what is compared if it lists that: `K = 4 against K = 1`."""
    higher, lower = (
        {axis: pair[side][axis] for axis in pair["listed"]} for side in ("higher", "lower")
    )
    other = {axis: value for axis, value in lower.items() if value != higher[axis]}
    compared = " against ".join(filter(None, [point_text(higher), point_text(other)]))
    return ", ".join(filter(None, [point_text(pair["place"]), compared]))
