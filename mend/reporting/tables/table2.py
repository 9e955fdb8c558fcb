"""The paper's table 2: five methods, seven partitions, as CSV, Parquet and one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow

from mend.atomic_io import write_parquet, write_text
from mend.configuration.task_list import read_task_list
from mend.errors import UserError
from mend.evaluation.prediction_table import read_predictions
from mend.evaluation.statistics import to_csv
from mend.reporting.tables.table2_html import render
from mend.reporting.tables.table2_numbers import compute_table2
from mend.reporting.training_costs import read_record


def write_table2(
    spec: Mapping[str, Any],
    prediction_files: Iterable[str | Path],
    record_files: Iterable[str | Path],
    csv: str | Path,
    parquet: str | Path,
    html: str | Path,
) -> None:
    """Compute table 2 and write it three times: `csv`, `parquet` (same numbers) and `html`.

    `spec` has the keys llms ([{name, paper_llm or null}]), methods, partitions, seeds, task_list
    (path), protocol (metrics, task_mean, excluded_test_tasks, drop_tasks_in_both), and optionally
    skipped ({partition: [tasks whose files are not there]}), shots, title, benchmark (the source
    of the tasks: pocket, folder or hub) and command. `record_files` are the `record.json` of the
    training runs. The CSV depends only on the predictions and the spec, not on the records.

    Raises UserError where the spec lacks a key or the predictions are incomplete; then no file
    is written.
    """
    spec = _checked(spec)
    tasks = read_task_list(spec["task_list"])
    predictions = read_predictions(prediction_files)
    table = compute_table2(
        spec,
        tasks,
        predictions,
        records=[read_record(path) for path in record_files],
        command=spec.get("command") or f"snakemake --cores all {csv}",
    )
    page = render(table)
    write_parquet(pyarrow.Table.from_pandas(table.numbers, preserve_index=False), parquet)
    write_text(page, html)
    write_text(to_csv(table.numbers), csv)


def _checked(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    required = ("llms", "methods", "partitions", "seeds", "task_list")
    missing = [key for key in required if not spec.get(key)]
    if missing:
        raise UserError(f"the specification of table 2 lacks {', '.join(missing)}")
    return {**spec, "protocol": spec.get("protocol") or {}}
