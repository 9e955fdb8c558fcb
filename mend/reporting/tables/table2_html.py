"""Laying out table 2 as one HTML page; the markup is in `templates/table2.html.j2`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mend.display_names import method_label
from mend.evaluation.statistics import AVERAGE, DRAWS, difference_name, verdict
from mend.reporting.pages import drawing_scale, marks, named_tasks, paper_text, partition_label
from mend.reporting.pages import render as page
from mend.reporting.tables.table2_numbers import Claim, Table2
from mend.reporting.training_costs import commits, costs, same_steps, versions

Numbers = Mapping[tuple[str, str, str], Mapping[str, Any]]


def render(table: Table2) -> str:
    """The page as text. Everything that comes from data is escaped by the template engine."""
    spec = table.spec
    columns = [*table.partitions, AVERAGE]
    numbers = _by_key(table.numbers)
    paper = _by_key(table.paper)
    return page(
        "table2.html.j2",
        title=spec.get("title") or "Table 2",
        benchmark=spec.get("benchmark"),
        shots=spec.get("shots"),
        seeds=spec["seeds"],
        draws=DRAWS,
        protocol=spec["protocol"],
        columns=[
            {
                "label": partition_label(name).split("→"),
                "tasks": tasks,
            }
            for name, tasks in zip(columns, table.numbers["tasks"], strict=False)
        ],
        blocks=[_block(table, llm, columns, numbers, paper) for llm in spec["llms"]],
        other_mean=_other_mean(table, columns),
        costs=[
            {**row, "label": method_label(row["method"])}
            for row in costs(table.records, spec["methods"])
        ],
        same_steps=same_steps(table.records),
        untrained=[
            method_label(method)
            for method in spec["methods"]
            if method not in {record["method"] for record in table.records}
        ],
        skipped=named_tasks(spec.get("skipped") or {}),
        excluded=named_tasks(spec["protocol"].get("excluded_test_tasks") or {}),
        in_both=named_tasks(table.in_both),
        without_tasks=[partition_label(name) for name in table.without_tasks],
        commits=commits(table.records),
        versions=versions(table.records),
        command=table.command,
    )


def _by_key(frame: pd.DataFrame) -> Numbers:
    records = frame.to_dict("records")
    return {(row["llm"], row["method"], row["partition"]): row for row in records}


def _block(
    table: Table2, llm: Mapping[str, Any], columns: Sequence[str], ours: Numbers, paper: Numbers
) -> dict[str, Any]:
    """One LLM: its methods, then MEND − ICL, then the paper's claims."""
    name, paper_name = llm["name"], llm.get("paper_llm")
    methods = list(table.spec["methods"])
    column_marks = {
        column: marks([ours[name, method, column]["mean"] for method in methods])
        for column in columns
    }
    rows = []
    for i, method in enumerate(methods):
        cells = []
        for column in columns:
            cell = {**ours[name, method, column], "mark": column_marks[column][i]}
            cell["paper"] = paper_text(paper.get((paper_name, method, column)))
            cells.append(cell)
        rows.append({"label": method_label(method), "cells": cells})
    differences = [
        {
            "label": method_label(difference_name(claim.method, claim.baseline)),
            "main": (claim.method, claim.baseline) == ("mend", "vanilla-icl"),
            "cells": [
                {
                    **ours[name, difference_name(claim.method, claim.baseline), column],
                    "paper": _paper_difference(paper, paper_name, claim, column),
                }
                for column in columns
            ],
        }
        for claim in table.claims
    ]
    return {
        "name": name,
        "paper": paper_name,
        "rows": rows,
        "differences": differences,
        "claims": _claims(table, name, paper_name, ours, paper),
    }


def _paper_difference(paper: Numbers, llm: str | None, claim: Claim, column: str) -> str:
    first, second = paper.get((llm, claim.method, column)), paper.get((llm, claim.baseline, column))
    return f"{first['mean'] - second['mean']:+.2f}" if first and second else ""


def _claims(
    table: Table2, llm: str, paper_llm: str | None, ours: Numbers, paper: Numbers
) -> list[dict[str, Any]]:
    found = [
        (claim, ours[llm, difference_name(claim.method, claim.baseline), AVERAGE])
        for claim in table.claims
    ]
    ends = [end for claim, row in found for end in (row["ci_low"], row["ci_high"], claim.margin)]
    place = drawing_scale(ends)
    claims = []
    for claim, row in found:
        name = difference_name(claim.method, claim.baseline)
        above = [ours[llm, name, column]["mean"] > claim.margin for column in table.partitions]
        claims.append(
            {
                "text": claim.text,
                "verdict": verdict(row["ci_low"], row["ci_high"], claim.margin),
                "margin": claim.margin,
                **row,
                "paper": _paper_difference(paper, paper_llm, claim, AVERAGE),
                "above": f"{sum(above)} of {len(above)}",
                "drawing": {
                    "margin": place(claim.margin),
                    "low": place(row["ci_low"]),
                    "high": place(row["ci_high"]),
                    "mean": place(row["mean"]),
                },
            }
        )
    return claims


def _other_mean(table: Table2, columns: Sequence[str]) -> dict[str, Any] | None:
    """Both task means side by side, in the columns where they differ."""
    if table.other_mean is None:
        return None
    main, other = _by_key(table.numbers), _by_key(table.other_mean)
    differing = [
        column
        for column in columns
        if any(abs(main[k]["mean"] - other[k]["mean"]) >= 0.005 for k in other if k[2] == column)
    ]
    chosen = table.spec["protocol"].get("task_mean", "plain")
    return {
        "names": ("plain", "authors") if chosen == "plain" else ("authors", "plain"),
        "columns": [partition_label(column) for column in differing],
        "rows": [
            {
                "llm": llm["name"],
                "label": method_label(method),
                "cells": [
                    (main[llm["name"], method, c]["mean"], other[llm["name"], method, c]["mean"])
                    for c in differing
                ],
            }
            for llm in table.spec["llms"]
            for method in table.spec["methods"]
        ],
    }
