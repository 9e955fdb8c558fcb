"""Laying out a study as HTML; the markup is in `templates/study.html.j2` and `study_section`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from mend.configuration.claims import SIDES
from mend.display_names import method_label
from mend.evaluation.statistics import AVERAGE, DRAWS
from mend.paper import paper_numbers
from mend.reporting.pages import (
    drawing_scale,
    marks,
    named_tasks,
    paper_text,
    partition_label,
    render,
)
from mend.reporting.studies.names import axis_label, point_text, reference_text, value_text
from mend.reporting.studies.numbers import Point, Spec, normal_point, points_of, study_axes
from mend.reporting.training_costs import commits, costs, versions

Claims = Sequence[Mapping[str, Any]]
Records = Sequence[Mapping[str, Any]]
Column = tuple[Point, str]
"""What a column adds to its rows' points, and its partition."""


def study_page(spec: Spec, table: pd.DataFrame, claims: Claims, records: Records) -> Markup:
    """A page of its own for a study; arguments as for `study_section`."""
    section = study_section(spec, table, claims, records, level=1)
    return render("study.html.j2", title=spec.get("title") or spec["name"], section=section)


def study_section(
    spec: Spec,
    table: pd.DataFrame,
    claims: Claims = (),
    records: Records = (),
    level: int = 2,
) -> Markup:
    """The markup of a study: its table, differences, claims, and what was run.

    Without an axis beside `run`, columns are partitions and rows are runs. Otherwise columns are
    the last axis' values, rows the runs with the values of the axes between, and cells averages
    over the partitions, with each partition's numbers in a second table. `table` is of
    `compute_study` (or its Parquet file), `claims` of `judge_claims`, `records` of the training
    runs; `level` is that of the heading.
    """
    axes = study_axes(spec)
    values = _by_place(table, axes)
    paper = _paper(spec, table, axes)
    partitions = list(dict.fromkeys(table["partition"]))
    *between, last = axes
    by_partition = [({}, partition) for partition in partitions]
    if between:
        rows = points_of({axis: axes[axis] for axis in between})
        columns = [({last: value}, partitions[-1]) for value in axes[last]]
    else:
        rows, columns = points_of(axes), by_partition
    grids = {"main": _grid(spec, values, paper, rows, columns)}
    if between and len(partitions) > 1:
        grids["partitions"] = _grid(spec, values, paper, points_of(axes), by_partition)
    if spec.get("reference"):
        grids["differences"] = _only_compared(grids["main"])
    return render(
        "study_section.html.j2",
        spec=spec,
        level=level,
        grids=grids,
        axis=axis_label(last) if between else None,
        partitions=[partition_label(name) for name in partitions if name != AVERAGE],
        reference=reference_text(spec.get("reference") or {}),
        paper_shown=bool(paper),
        blocks=study_claims(spec, table, claims),
        draws=DRAWS,
        settings=spec.get("set") or {},
        runs=[
            {**run, "label": point_text(normal_point(run["values"], axes))} for run in spec["runs"]
        ],
        costs=[
            {**row, "label": method_label(row["method"])}
            for row in costs(records, [run["method"] for run in spec["runs"]])
        ],
        skipped=named_tasks(spec.get("skipped") or {}),
        excluded=named_tasks(spec["protocol"].get("excluded_test_tasks") or {}),
        commits=commits(records),
        versions=versions(records),
    )


def _by_place(table: pd.DataFrame, axes: Mapping[str, Sequence]) -> dict[tuple, dict[str, Any]]:
    """Rows by (LLM, the axes' values in order, partition)."""
    return {
        (row["llm"], *(row[axis] for axis in axes), row["partition"]): row
        for row in table.to_dict("records")
    }


def _paper(
    spec: Spec, table: pd.DataFrame, axes: Mapping[str, Sequence]
) -> dict[tuple, dict[str, Any]]:
    """The paper's numbers by (our LLM, the axes' values, partition); none if its axes differ.

    Its AVG is over its own partitions; where ours are fewer, the mean over ours replaces it.
    """
    if not spec.get("paper"):
        return {}
    numbers = paper_numbers(spec["paper"])
    if set(axes) - set(numbers.columns) or len(numbers.columns) != len(axes) + 4:
        return {}
    printed = set(numbers["partition"]) - {AVERAGE}
    ours = set(table["partition"]) - {AVERAGE}
    if ours < printed:
        part = numbers[numbers["partition"].isin(ours)]
        means = part.groupby(["llm", *axes], as_index=False)["mean"].mean()
        numbers = pd.concat([part, means.assign(partition=AVERAGE)], ignore_index=True)
    found = {}
    for llm in spec["llms"]:
        own = numbers[numbers["llm"] == llm.get("paper_llm")]
        found.update(_by_place(own.assign(llm=llm["name"]), axes))
    return found


def _grid(
    spec: Spec,
    values: Mapping[tuple, Mapping[str, Any]],
    paper: Mapping[tuple, Mapping[str, Any]],
    rows: Sequence[Point],
    columns: Sequence[Column],
) -> dict[str, Any]:
    """Heads, and for each LLM rows of cells; the best of a column is marked, or of a single row."""
    blocks = []
    for llm in spec["llms"]:
        cells = []
        for row in rows:
            cells.append([])
            for point, partition in columns:
                place = (llm["name"], *{**row, **point}.values(), partition)
                cell = {**values[place], "paper": paper_text(paper.get(place))}
                cells[-1].append({**cell, "average": partition == AVERAGE and not point})
        lines = zip(*cells, strict=True) if len(rows) > 1 else cells
        for line in lines if len(rows) > 1 or columns[0][0] else ():
            for cell, mark in zip(line, marks([cell["mean"] for cell in line]), strict=True):
                cell["mark"] = mark
        labels = [point_text(row) for row in rows]
        lines = [{"label": label, "cells": line} for label, line in zip(labels, cells, strict=True)]
        blocks.append({"name": llm["name"], "paper": llm.get("paper_llm"), "rows": lines})
    heads = [
        value_text(*point.values()) if point else partition_label(partition)
        for point, partition in columns
    ]
    return {"heads": [{"label": head.split("→")} for head in heads], "blocks": blocks}


def _only_compared(grid: Mapping[str, Any]) -> dict[str, Any]:
    """A grid without the rows and columns that are nothing but the reference itself."""

    def compared(cell: Mapping[str, Any]) -> bool:
        return not pd.isna(cell["difference"])

    rows = [row for block in grid["blocks"] for row in block["rows"]]
    kept = [i for i in range(len(grid["heads"])) if any(compared(row["cells"][i]) for row in rows)]
    blocks = [
        {
            **block,
            "rows": [
                {**row, "cells": [row["cells"][i] for i in kept]}
                for row in block["rows"]
                if any(map(compared, row["cells"]))
            ],
        }
        for block in grid["blocks"]
    ]
    return {"heads": [grid["heads"][i] for i in kept], "blocks": blocks}


def study_claims(spec: Spec, table: pd.DataFrame, claims: Claims) -> list[dict[str, Any]]:
    """The claims of each LLM that has any: [{name, paper (whether it has numbers), claims}].

    Arguments as for `study_section`. A claim's pairs are [{label, verdict, mean, ci_low, ci_high,
    margin, paper: the paper's difference as text, drawing: places on a scale of the LLM's own}].
    """
    axes = study_axes(spec)
    paper = _paper(spec, table, axes)
    partition = table["partition"].iloc[-1]
    blocks = []
    for llm in spec["llms"]:
        own = [claim for claim in claims if claim["llm"] == llm["name"]]
        place = drawing_scale(
            end
            for claim in own
            for pair in claim["pairs"]
            for end in (pair["low"], pair["high"], claim["margin"])
        )
        rows = []
        for claim in own:
            pairs = []
            for pair in claim["pairs"]:
                sides = [
                    paper.get((llm["name"], *(pair[side][axis] for axis in axes), partition))
                    for side in SIDES
                ]
                difference = f"{sides[0]['mean'] - sides[1]['mean']:+.2f}" if all(sides) else ""
                pairs.append(
                    {
                        **{"label": _pair_label(pair), "verdict": pair["verdict"]},
                        **{"mean": pair["difference"], "margin": claim["margin"]},
                        **{"ci_low": pair["low"], "ci_high": pair["high"], "paper": difference},
                        "drawing": {
                            "margin": place(claim["margin"]),
                            "low": place(pair["low"]),
                            "high": place(pair["high"]),
                            "mean": place(pair["difference"]),
                        },
                    }
                )
            rows.append({**claim, "pairs": pairs})
        if rows:
            shown = any(pair["paper"] for row in rows for pair in row["pairs"])
            blocks.append({"name": llm["name"], "paper": shown, "claims": rows})
    return blocks


def _pair_label(pair: Mapping[str, Any]) -> str:
    """Where a claim is judged, and what is compared if it lists that: `K = 4 against K = 1`."""
    higher, lower = ({axis: pair[side][axis] for axis in pair["listed"]} for side in SIDES)
    other = {axis: value for axis, value in lower.items() if value != higher[axis]}
    compared = " against ".join(filter(None, [point_text(higher), point_text(other)]))
    return ", ".join(filter(None, [point_text(pair["place"]), compared]))
