"""Studies: lists of runs of the configuration, as tables, pages and pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mend.atomic_io import write_json
from mend.configuration.specs.reporting import StudySpec
from mend.evaluation.prediction_table import read_predictions
from mend.reporting.cuts import prediction_cuts
from mend.reporting.pages import page, write_table
from mend.reporting.studies.names import value_text
from mend.reporting.studies.numbers import compute_study
from mend.reporting.studies.section import study_section
from mend.reporting.training_costs import read_record


def write_study(
    spec: StudySpec,
    prediction_files: Iterable[str | Path],
    record_files: Iterable[str | Path],
    csv: str | Path,
    parquet: str | Path,
    html: str | Path,
    details: str | Path,
    choice_files: Iterable[str | Path] = (),
) -> None:
    """Compute a study and write its table (`csv`, `parquet`: the same numbers), page and details.

    `record_files` are the `record.json` of the training runs, `choice_files` those of what
    `mend.evaluation.choice` chose among them: of both only the page tells. The
    columns are those of `mend.reporting.studies.numbers.compute_study`; the details are what else
    the page says, as JSON: {claims, other_mean} of `StudyNumbers`, and for the report what was cut
    (`mend.reporting.cuts.prediction_cuts`). Raises UserError where
    predictions are incomplete; then no file is written.
    """
    files = list(prediction_files)
    numbers = compute_study(spec, read_predictions(files))
    table, found = numbers.table, {"claims": numbers.claims, "other_mean": numbers.other_mean}
    records, choices = (list(map(read_record, files)) for files in (record_files, choice_files))
    section = study_section(spec, table, found, records, choices, level=1)
    axes = [axis for axis in spec.axis_values if axis in table]
    text = table.assign(**{axis: table[axis].map(value_text) for axis in axes})
    write_json({**found, "cuts": prediction_cuts(files)}, details)
    write_table(table, page(spec.title, section), csv, parquet, html, text)
