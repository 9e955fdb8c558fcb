"""The paper's table 1: tasks of each side of the partitions, and how long a demonstration is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from mend.configuration.display_names import partition_display_name
from mend.configuration.specs.reporting import CountedLLM, Table1Spec
from mend.data.corpus import load_tokenizer
from mend.data.parquet import NUMBER, REAL, TEXT
from mend.data.tasks import load_rows
from mend.data.template import Template
from mend.paper import paper_table
from mend.progress import Progress
from mend.reporting.pages import page, render, write_table

TITLE = "Table 1: the partitions’ tasks, and how long a demonstration is"
ROWS = 500
"""Rows of a task whose length is measured, at most; they are spread evenly over the task."""

SPLITS = {"train": "meta-train", "test": "meta-test"}
COLUMNS = dict.fromkeys(["split", "setting", "llm"], TEXT)
COLUMNS |= {"tasks": NUMBER, "rows": NUMBER, "length": REAL, "length_uncut": REAL}


def write_table1(
    spec: Table1Spec,
    tasks_folder: str | Path,
    csv: str | Path,
    parquet: str | Path,
    html: str | Path,
) -> None:
    """Measure table 1 and write it as `csv`, `parquet` (the same numbers) and `html`.

    Columns: split (meta-train or meta-test), setting (as the paper names that side of a partition),
    llm (whose tokens are counted), tasks, rows (measured, all tasks together), length and
    length_uncut: tokens of a demonstration x + y with its separators, mean over a task's rows and
    then over tasks; `length` as it is read, cut by longest_example. A meta-train task's rows are
    its `meta_train` split, a meta-test task's the `train` splits of the seeds.

    `tasks_folder` is that of `mend.data.tasks.import_tasks`. Raises UserError, naming a tokenizer
    or a task that cannot be read.
    """
    sides = _sides(spec)
    parts = []
    for llm in spec.llms:
        lengths = _lengths(spec, llm, tasks_folder, sides)
        for (split, setting), names in sides.items():
            # (tasks, 3): rows, and mean tokens cut and uncut.
            found = np.array([lengths[split, name] for name in names])
            means = found[:, 1:].mean(axis=0).round(4)
            row = (SPLITS[split], setting, llm.name, len(names), int(found[:, 0].sum()), *means)
            parts.append(row)
    table = pd.DataFrame(parts, columns=list(COLUMNS))
    write_table(table, page(TITLE, table1_section(spec, table, level=1)), csv, parquet, html)


def _sides(spec: Table1Spec) -> dict[tuple[str, str], tuple[str, ...]]:
    """The tasks of each (train or test, name of that side), meta-train first.

    A side that two partitions share is there once, unless a protocol gives them other tasks.
    """
    sides: dict[tuple[str, str], tuple[str, ...]] = {}
    for place, split in enumerate(SPLITS):
        for partition in spec.partitions:
            name = partition_display_name(partition)
            both, names = name.split("→"), tuple(spec.tasks[partition][split])
            setting = both[place] if len(both) > 1 else name  # one's own has one name
            if names and sides.setdefault((split, setting), names) != names:
                sides[split, f"{setting} ({name})"] = names
    return sides


def _lengths(
    spec: Table1Spec,
    llm: CountedLLM,
    tasks_folder: str | Path,
    sides: Mapping[tuple[str, str], Sequence[str]],
) -> dict[tuple[str, str], tuple[int, float, float]]:
    """For each (train or test, task): rows measured, mean tokens cut and uncut."""
    tokenizer = load_tokenizer(llm)
    uncut = spec.reading.model_copy(update={"longest_example": 10**9})
    templates = [Template(tokenizer, reading, sys.maxsize) for reading in (spec.reading, uncut)]
    wanted = dict.fromkeys((split, name) for (split, _), names in sides.items() for name in names)
    progress = Progress(f"tasks, tokens of {llm.name}", len(wanted))
    lengths = {}
    for count, (split, name) in enumerate(wanted, start=1):
        rows = list(_demonstrations(spec, split, name, tasks_folder))
        chosen = np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).round().astype(int)
        tokens = [
            [sum(map(len, template.example(*rows[i], first=False))) for template in templates]
            for i in chosen
        ]
        lengths[split, name] = (len(chosen), *np.mean(tokens, axis=0))
        progress.update(count, name)
    return lengths


def _demonstrations(
    spec: Table1Spec, split: str, name: str, tasks_folder: str | Path
) -> Iterator[tuple[str, str]]:
    """(input, output) of the rows that demonstrations of a task are drawn from."""
    task = load_rows(tasks_folder, name)
    if split == "train":
        yield from (row[:2] for row in task.rows("meta_train"))
        return
    for seed in spec.seeds:
        yield from (row[:2] for row in task.rows("train", seed))


def table1_section(spec: Table1Spec, table: pd.DataFrame, level: int = 2) -> Markup:
    """The markup of table 1, beside the paper's; `level` is that of the heading."""
    paper = {
        (row["split"], row["setting"]): row for row in paper_table("table1").to_dict("records")
    }
    llms = [llm.name for llm in spec.llms]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        key = (row["split"], row["setting"])
        rows.setdefault(key, {**row, "paper": paper.get(key), "llms": []})["llms"].append(row)
    return render(
        "table1_section.html.j2",
        title=TITLE,
        level=level,
        spec=spec,
        llms=llms,
        splits={
            split: [row for key, row in rows.items() if key[0] == split]
            for split in SPLITS.values()
        },
        most_rows=ROWS,
    )
