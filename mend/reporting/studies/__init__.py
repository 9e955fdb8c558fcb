"""Studies: lists of runs of the configuration, as tables, pages and pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mend.atomic_io import write_json
from mend.configuration.specs.reporting import StudySpec
from mend.evaluation.prediction_table import read_predictions
from mend.progress import logger
from mend.provenance import changed_inputs, checksums, replaced_text
from mend.reporting.cuts import prediction_cuts
from mend.reporting.pages import page, write_table
from mend.reporting.studies.names import value_text
from mend.reporting.studies.numbers import compute_study
from mend.reporting.studies.section import study_section, unlike_conditions
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
    (`mend.reporting.cuts.prediction_cuts`), and which files the table was made of (made_of:
    their checksums). Inputs that were replaced since they were read are told in log and page.
    Raises UserError where predictions are incomplete; then no file is written.
    """
    files, record_files, choice_files = map(list, (prediction_files, record_files, choice_files))
    numbers = compute_study(spec, read_predictions(files))
    table, found = numbers.table, {"claims": numbers.claims, "other_mean": numbers.other_mean}
    records, choices = (list(map(read_record, files)) for files in (record_files, choice_files))
    if changed := changed_inputs([*files, *record_files, *choice_files]):
        logger.warning("%s: %s", spec.name, replaced_text(changed))
    section = study_section(spec, table, found, records, choices, level=1, changed=changed)
    if unlike_conditions(spec):
        table = _with_conditions(spec, table)
    axes = [axis for axis in spec.axis_values if axis in table]
    text = table.assign(**{axis: table[axis].map(value_text) for axis in axes})
    made_of = checksums([*files, *record_files, *choice_files], details)
    write_json({**found, "cuts": prediction_cuts(files), "made_of": made_of}, details)
    write_table(table, page(spec.title, section), csv, parquet, html, text)


def _with_conditions(spec: StudySpec, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the condition of each row, for rows that were not evaluated alike."""
    names = ["method"] if spec.layout == "matrix" else list(spec.axis_values)
    found = {}
    for run in spec.runs:
        place = [run.method] if spec.layout == "matrix" else [run.values[name] for name in names]
        found[run.llm, *place] = run.condition
    places = zip(*(table[name] for name in ("llm", *names)), strict=True)
    return table.assign(condition=[found.get(place, "") for place in places])
