"""Larger pools of demonstrations, out of the files of a data set that has all tasks together.

`bigheiniuJ/EvalMetaICLAll` on the hub has one: 100 training rows of each task and seed in its split
`meta_eval_100shot`. Its rows have the columns task, input, output, options, seed (text) and split
(train, dev or test).
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mend.atomic_io import atomic_folder, check_file
from mend.configuration.specs.pool import PoolSpec
from mend.data.layout import benchmark_files
from mend.errors import UserError
from mend.progress import logger

COLUMNS = ("task", "input", "output", "options", "seed", "split")


def write_pools(spec: PoolSpec, files: Sequence[str | Path], output_folder: str | Path) -> None:
    """Write the training rows of tasks and seeds as larger train files in MetaICL's layout.

    Args:
        spec: which tasks and seeds.
        files: Parquet (.parquet) or JSON lines, with COLUMNS; patterns with a * are expanded. Rows
            of other splits, tasks and seeds are passed over; rows stay in their order.
        output_folder: receives data/TASK/TASK_{rows}_SEED_train.jsonl; replaced as a whole.

    Raises:
        UserError: naming the file (and line) that cannot be read or lacks a column, or the tasks
            and seeds without rows, unless they are to be skipped: then they are logged.
    """
    wanted = {
        (file.task, str(file.seed)): file.name
        for file in benchmark_files([], spec.tasks, spec.seeds, spec.rows)
        if file.split == "pool"
    }
    found: dict[tuple[str, str], list[str]] = {}
    for row in _rows(files):
        pool = (row["task"], str(row["seed"]))
        if row["split"] == "train" and pool in wanted:
            of_layout = {key: row[key] for key in ("task", "input", "output", "options")}
            found.setdefault(pool, []).append(json.dumps(of_layout) + "\n")
    if missing := [f"{task} (seed {seed})" for task, seed in wanted if (task, seed) not in found]:
        told = f"benchmark.pool_files: no rows of split train for {', '.join(missing)}"
        if spec.missing_tasks == "error":
            raise UserError(
                f"{told}; benchmark.missing_tasks: skip lets these choose from the train rows of "
                "all seeds"
            )
        logger.warning("%s; these choose from the train rows of all seeds", told)
    with atomic_folder(output_folder) as folder:
        for pool, lines in found.items():
            path = folder / wanted[pool]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")


def _rows(files: Iterable[str | Path]) -> Iterator[dict[str, Any]]:
    for name in files:
        paths = sorted(glob.glob(str(name))) if "*" in str(name) else [name]
        if not paths:
            raise UserError(f"{name}: no file of the pool has such a name")
        for path in map(Path, paths):
            check_file(path, "file of a pool")
            yield from _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(f"{path}", file.schema_arrow.names)
            for batch in file.iter_batches(columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    number += 1
                    _check_row(row, f"{path}, row {number}")
                    yield row
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({error})") from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.isspace():
                    row = json.loads(line)
                    where = f"{path}, line {number}"
                    _check_columns(where, row if isinstance(row, dict) else ())
                    _check_row(row, where)
                    yield row
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: not JSON ({error})") from None


def _check_row(row: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless what says whose row it is has its type; `tasks` reads the rest."""
    for name in ("task", "split"):
        if type(row[name]) is not str:
            raise UserError(f"{where}: {name} is not text")
    if type(row["seed"]) not in (str, int):
        raise UserError(f"{where}: seed is neither text nor a whole number")


def _check_columns(where: str, columns: Iterable[str]) -> None:
    if missing := [name for name in COLUMNS if name not in columns]:
        raise UserError(f"{where}: no column {', '.join(missing)}; a pool's rows have them all")
