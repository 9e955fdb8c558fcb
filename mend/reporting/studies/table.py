"""A study's table, read again: for its figure and for the report."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from mend.configuration.specs.reporting import StudySpec
from mend.data.parquet import REAL, TEXT, read_columns
from mend.errors import UserError
from mend.evaluation.prediction_table import CONTEXT_COSTS
from mend.reporting.studies.numbers import BREAK_EVEN, DIFFERENCE, NUMBERS

WHAT = "a study's numbers"


def read_study_table(spec: StudySpec, path: str | Path) -> pd.DataFrame:
    """Read what `mend.reporting.studies.write_study` wrote of a study as Parquet.

    Raises UserError, naming the file, for columns, points or numbers that it lacks.
    """
    matrix = spec.layout == "matrix"
    keys = {"llm": TEXT, "partition": TEXT}
    if matrix:
        keys["method"] = TEXT
    else:
        for axis, values in spec.axis_values.items():
            keys[axis] = TEXT if all(isinstance(value, str) for value in values) else REAL
    numbers = [*NUMBERS, *CONTEXT_COSTS, *([] if matrix else DIFFERENCE)]
    more = dict.fromkeys(["average_rank", "context_share", BREAK_EVEN], REAL)
    empty = {*numbers, *more} - {"mean"}
    columns = {**keys, **dict.fromkeys(numbers, REAL)}
    table = read_columns(path, columns, WHAT, more, empty).to_pandas()
    names = ["method"] if matrix else list(spec.axis_values)
    every = [run.method for run in spec.runs] if matrix else None
    points = {(m,) for m in every} if matrix else {*itertools.product(*spec.axis_values.values())}
    wanted = {(llm.name, *point) for llm in spec.llms for point in points}
    found = set(zip(*(table[name] for name in ("llm", *names)), strict=True))
    if missing := sorted(wanted - found, key=str):
        listed = ", ".join(map(str, missing[0]))
        raise UserError(f"{path}: {WHAT} lack {listed}; delete it to make it again")
    partitions = set(table["partition"])
    whole = table.groupby(["llm", *names])["partition"].apply(set)
    twice = table.duplicated(["llm", *names, "partition"]).any()
    if twice or not (np.abs(table["mean"]) <= 100).all() or any(one != partitions for one in whole):
        raise UserError(f"{path}: {WHAT} are not whole; delete it to make it again")
    return table
