"""The paper's table 5: the hyperparameters in force, beside the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mend.configuration.choices import STAGES
from mend.configuration.display_names import method_display_name
from mend.configuration.specs.reporting import StageSettings, Table5Spec
from mend.data.parquet import TEXT
from mend.errors import UserError
from mend.paper import paper_table
from mend.reporting.pages import page, render, write_table

TITLE = "Table 5: hyperparameters"
COLUMNS = dict.fromkeys(["source", "stage", "llm", "method", "hyperparameter", "value"], TEXT)
DISPLAY_NAMES = {
    "length": "length (l)",
    "beta": "beta (β)",
    "betas": "betas of AdamW",
    "dtype": "precision of the LLM",
    "int8": "LLM in 8 bit",
}


def write_table5(spec: Table5Spec, csv: str | Path, parquet: str | Path, html: str | Path) -> None:
    """Write table 5 as `csv`, `parquet` (the same) and `html`.

    Columns: source (`here` or `paper`), stage, llm, method (empty in the paper's rows),
    hyperparameter (our key), value (text). Raises UserError if no method is trained.
    """
    rows = [
        ("here", run.stage, run.llm, run.method, key, _value(run, key))
        for run in spec.runs
        for key in run.settings
    ]
    if not rows:
        raise UserError("table 5: none of the methods of studies.table2 is trained; add one")
    paper = paper_table("table5").assign(source="paper", method="")
    ours = pd.DataFrame(rows, columns=list(COLUMNS))
    table = pd.concat([ours, paper[list(COLUMNS)]], ignore_index=True)
    write_table(table, page(TITLE, table5_section(spec, table, level=1)), csv, parquet, html)


def _value(run: StageSettings, key: str) -> str:
    if key in run.candidates:
        return f"the best on dev rows of {_text(run.candidates[key])}"
    return _text(run.settings[key])


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)


def table5_section(spec: Table5Spec, table: pd.DataFrame, level: int = 2) -> Markup:
    """The markup of table 5; `level` is that of the heading.

    A column for each stage and LLM; in a cell, whose a value is where methods differ.
    """
    ours = table[table["source"] == "here"]
    keys = list(dict.fromkeys(ours["hyperparameter"]))
    stages = []
    for stage in (name for name in STAGES if name in set(ours["stage"])):
        groups = table[table["stage"] == stage].groupby(["source", "llm"], sort=False)
        columns = [
            {"llm": llm, "paper": source == "paper", "cells": [_cell(part, key) for key in keys]}
            for (source, llm), part in groups
        ]
        stages.append({"name": stage, "columns": columns})
    return render(
        "table5_section.html.j2",
        title=TITLE,
        level=level,
        spec=spec,
        keys=[DISPLAY_NAMES.get(key, key.replace("_", " ").replace(".", ": ")) for key in keys],
        stages=stages,
    )


def _cell(part: pd.DataFrame, key: str) -> list[tuple[str, str]]:
    """(methods, value) of an LLM in a stage; without methods where all have the same value."""
    own = part[part["hyperparameter"] == key]
    methods: dict[str, list[str]] = {}
    for method, value in zip(own["method"], own["value"], strict=True):
        methods.setdefault(value, []).append(method_display_name(method))
    if len(methods) == 1 and len(own) == part["method"].nunique():
        return [("", own["value"].iloc[0])]
    return [(", ".join(names), value) for value, names in methods.items()]
