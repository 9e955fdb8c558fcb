"""All that was tried: every candidate of `select`, with its dev score, from what chose among them.

The records are those of `mend.evaluation.choice`; test rows have no part in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow

from mend.atomic_io import write_parquet, write_text
from mend.configuration.paths import parse_settings, settings_text
from mend.data.parquet import NUMBER, REAL, TEXT, YES_NO, read_columns
from mend.errors import UserError
from mend.evaluation.statistics import to_csv
from mend.provenance import checksums
from mend.reporting.training_costs import Record, read_record

COLUMNS = dict.fromkeys(["llm", "method", "partition"], TEXT) | {"training_seed": NUMBER}
COLUMNS |= dict.fromkeys(["run", "candidate", "settings"], TEXT)
COLUMNS |= {"dev_score": REAL, "step": NUMBER, "steps": NUMBER, "chosen": YES_NO}

SEED = "training.seed"


def write_candidates(
    record_files: Iterable[str | Path], csv: str | Path, parquet: str | Path
) -> None:
    """Write all candidates of some choices as CSV and Parquet, a row for each.

    record_files: each choice's record.json. Columns: llm, method, partition, training_seed; run,
    the variant with all candidates; candidate, its own variant, and settings, those of it that
    were chosen among; dev_score in per cent; step, whose weights were kept, of steps; and chosen.
    Rows are in the order of the choices, and in each as they were tried.
    Raises UserError, naming the file, for a record that is not a choice's.
    """
    files = list(dict.fromkeys(map(Path, record_files)))
    rows = [row for file in files for row in _rows(file, read_record(file))]
    table = pd.DataFrame(rows, columns=[*COLUMNS])
    made_of = checksums(files, parquet)
    write_parquet(pyarrow.Table.from_pandas(table, preserve_index=False), parquet, made_of)
    write_text(to_csv(table), csv)


def read_candidates(path: str | Path) -> pd.DataFrame:
    """Read what `write_candidates` wrote; raises UserError, naming the file, if it is not that."""
    return read_columns(path, COLUMNS, "candidates").to_pandas()


def tried(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Lay candidates out: [{llm, method, run, seeds, partitions, rows: [{settings, cells}]}].

    A group is an LLM and a method with all training seeds; a row is a candidate, a cell a
    partition: for each training seed that tried it {dev_score, chosen, training_seed}.
    """
    runs = [_without_seed(run) for run in table["run"]]
    groups = []
    for (llm, method, run), own in table.assign(run=runs).groupby(
        ["llm", "method", "run"], sort=False
    ):
        partitions = list(dict.fromkeys(own["partition"]))
        cells: dict[str, dict[str, list]] = {}
        for row in own.sort_values("training_seed", kind="stable").to_dict("records"):
            of_row = cells.setdefault(row["settings"], {name: [] for name in partitions})
            shown = {key: row[key] for key in ("dev_score", "chosen", "training_seed")}
            of_row[row["partition"]].append(shown)
        groups.append(
            {
                "llm": llm,
                "method": method,
                "run": run,
                "seeds": sorted(own["training_seed"].unique().tolist()),
                "partitions": partitions,
                "rows": [
                    {"settings": settings, "cells": [*of_row.values()]}
                    for settings, of_row in cells.items()
                ],
            }
        )
    return groups


def _rows(file: Path, record: Record) -> Iterable[dict[str, Any]]:
    same = {key: record[key] for key in ("llm", "method")}
    same |= {"partition": record.get("partition"), "training_seed": record.get("seed")}
    candidates = record.get("candidates")
    if not candidates or None in same.values() or not record.get("variant"):
        raise UserError(f"{file}: not the record of a choice among candidates; choose again")
    for candidate in candidates:
        if not _is_candidate(candidate):
            raise UserError(f"{file}: a candidate has no variant, settings or dev score")
        yield {
            **same,
            "run": record["variant"],
            "candidate": candidate["variant"],
            "settings": settings_text(candidate["settings"]),
            **{key: candidate[key] for key in ("dev_score", "step", "steps")},
            "chosen": candidate["variant"] == record.get("chosen"),
        }


def _is_candidate(candidate: Any) -> bool:
    kinds = {"variant": str, "settings": dict, "step": int, "steps": int}
    return (
        isinstance(candidate, Mapping)
        and all(isinstance(candidate.get(key), kind) for key, kind in kinds.items())
        and type(candidate.get("dev_score")) in (int, float)
    )


def _without_seed(variant: str) -> str:
    settings = parse_settings(variant)
    settings.pop(SEED, None)
    return settings_text(settings)
