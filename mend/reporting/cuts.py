"""What was cut to fit, and what tied, by task: from predictions and records to a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mend.configuration.display_names import stage_display_name
from mend.data.cuts import CUT_COUNTS
from mend.data.parquet import NUMBER, TEXT, YES_NO, read_columns
from mend.evaluation.prediction_table import RUN
from mend.reporting.training_costs import Record

SHARES = {
    "queries_cut": "queries",
    "demonstrations_cut": "demonstrations",
    "demonstrations_left_out": "demonstrations",
    "answers_cut": "queries",
    "tied": "queries",
}
"""Each count that is shown, and of what it is a share."""


def prediction_cuts(files: Iterable[str | Path]) -> list[dict[str, Any]]:
    """What was cut of the rows in prediction files: for each run and task the counts of CUT_COUNTS.

    And tied: of how many rows several options have the best score.
    Files without such columns are passed over.
    """
    columns = {"queries_cut": "query_cut", **{name: name for name in CUT_COUNTS[2:5]}}
    columns["tied"] = "tied"
    found = []
    for path in dict.fromkeys(map(Path, files)):
        keys = [*RUN, "partition", "task"]
        kinds = dict.fromkeys(columns.values(), NUMBER)
        kinds |= {"query_cut": YES_NO, "tied": YES_NO}
        table = read_columns(path, dict.fromkeys(keys, TEXT), "predictions", kinds)
        if not {*kinds} <= {*table.column_names}:
            continue
        rows = table.to_pandas()
        counts = rows.groupby(keys)[list(columns.values())].sum()
        counts.columns = list(columns)
        counts.insert(0, "queries", rows.groupby(keys).size())
        found += counts.astype(int).reset_index().to_dict("records")
    return found


def cut_rows(
    predictions: Iterable[Mapping[str, Any]], records: Iterable[Record]
) -> list[dict[str, Any]]:
    """The lines of the report's table: each LLM, use (training stage or test) and task cut.

    predictions: of all studies, a run once or often. Keys: llm, use, task, and for each of SHARES
    (count, of how many), over all runs together.
    """
    runs = {
        tuple(run[key] for key in (*RUN, "partition", "task")): {**run, "use": "test"}
        for run in predictions
    }
    counted = list(runs.values())
    for record in records:
        use = stage_display_name(record["stage"]).lower()
        for task, counts in record.get("cuts", {}).items():
            counted.append({"llm": record["llm"], "use": use, "task": task, **counts})
    if not counted:
        return []
    counts = [*CUT_COUNTS, "tied"]
    table = pd.DataFrame(counted).reindex(columns=["llm", "use", "task", *counts]).fillna(0)
    sums = table.groupby(["llm", "use", "task"], sort=True)[counts].sum().astype(int)
    return [
        {
            **dict(zip(("llm", "use", "task"), key, strict=True)),
            **{name: (row[name], row[whole]) for name, whole in SHARES.items()},
        }
        for key, row in zip(sums.index, sums.to_dict("records"), strict=True)
        if any(row[name] for name in SHARES)
    ]
