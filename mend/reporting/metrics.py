"""JSON lines that jobs wrote: the metrics of trainings, and what Snakemake measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mend.atomic_io import check_file
from mend.errors import UserError


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the objects of JSON lines; raises UserError naming the line that is none."""
    check_file(file)
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
                if not isinstance(rows[-1], dict):
                    raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: not JSON ({error})") from None
    return rows


def read_metrics(file: Path) -> list[dict[str, float]]:
    """Return a run's metrics; raises UserError naming the row that has something else."""
    rows = read_lines(file)
    for number, row in enumerate(rows, start=1):
        numbers = all(type(value) in (int, float) for value in row.values())
        if not numbers or type(row.get("step")) is not int:
            raise UserError(f"{file}, row {number}: not the metrics of a step")
    return rows
