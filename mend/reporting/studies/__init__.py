"""Studies: lists of runs of the configuration, as tables, pages and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow

from mend.atomic_io import write_json, write_parquet, write_text
from mend.configuration.task_list import read_task_list
from mend.errors import UserError
from mend.evaluation.prediction_table import read_predictions
from mend.evaluation.statistics import to_csv
from mend.reporting.studies.names import value_text
from mend.reporting.studies.numbers import judge_claims, point_scores, study_axes, study_table
from mend.reporting.studies.page import study_page
from mend.reporting.training_costs import read_record


def write_study(
    spec: Mapping[str, Any],
    prediction_files: Iterable[str | Path],
    record_files: Iterable[str | Path],
    csv: str | Path,
    parquet: str | Path,
    html: str | Path,
    claims: str | Path,
) -> None:
    """Compute a study and write its table (`csv`, `parquet`: the same numbers), page and claims.

    `spec` is what `mend.configuration.study_specs.study_specification` returns, `record_files` are
    the `record.json` of the training runs, of which only the page tells. The columns are those of
    `mend.reporting.studies.numbers.compute_study`, the claims those of `judge_claims`. Raises
    UserError where the specification lacks a key or predictions are incomplete; then no file is
    written.
    """
    required = ("name", "llms", "partitions", "seeds", "task_list", "axes", "runs", "protocol")
    missing = [key for key in required if key not in spec]
    if missing:
        raise UserError(f"the specification of a study lacks {', '.join(missing)}")
    tasks = read_task_list(spec["task_list"])
    scores = point_scores(spec, tasks, read_predictions(prediction_files))
    table, judged = study_table(spec, scores), judge_claims(spec, scores)
    page = study_page(spec, table, judged, [read_record(path) for path in record_files])
    text = table.assign(**{axis: table[axis].map(value_text) for axis in study_axes(spec)})
    write_parquet(pyarrow.Table.from_pandas(table, preserve_index=False), parquet)
    write_json(judged, claims)
    write_text(page, html)
    write_text(to_csv(text), csv)
