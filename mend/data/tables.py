"""Rows of tables: CSV, JSON lines, Parquet, and what the library `datasets` loads."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mend.atomic_io import check_file
from mend.configuration.specs.own_tasks import OwnTaskRows
from mend.data.layout import json_object
from mend.errors import UserError, first_line

TableRow = tuple[str, Mapping[str, Any]]
"""Where a row is, for messages, and its columns."""


def own_files(task: OwnTaskRows) -> list[str]:
    """Return the files that hold a task's rows; none if they are on the hub."""
    if not task.dataset:
        return sorted(set(task.sources.values()))
    return sorted(str(path) for path in Path(task.dataset).rglob("*") if path.is_file())


def table_rows(task: OwnTaskRows, source: str) -> Iterator[TableRow]:
    """Yield the rows of a file, or of a split of the task's data set, in their order.

    Raises UserError, naming the file and the line, for what cannot be read.
    """
    return _dataset_rows(task, source) if task.dataset else file_rows(source)


def file_rows(path: str | Path) -> Iterator[TableRow]:
    """Yield the rows of a file; raises UserError as `table_rows`."""
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    check_file(path, "file of rows")
    if (ending := Path(path).suffix) not in readers:
        raise UserError(f"{path}: its name ends in none of {', '.join(readers)}")
    return readers[ending](Path(path))


def _csv_rows(path: Path) -> Iterator[TableRow]:
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            if len(set(columns)) < len(columns):
                raise UserError(f"{path}, line 1: two columns have one name")
            line = reader.line_num + 1
            for cells in reader:
                where, line = f"{path}, line {line}", reader.line_num + 1
                if len(cells) not in (0, len(columns)):  # 0: a blank line
                    raise UserError(
                        f"{where}: it has {len(cells)} cells, and line 1 names {len(columns)} "
                        "columns; a cell with a comma stands in quotes"
                    )
                if cells:
                    yield where, dict(zip(columns, cells, strict=True))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not CSV ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _json_rows(path: Path) -> Iterator[TableRow]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.isspace():
                    row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=json_object)
                    if not isinstance(row, dict):
                        raise ValueError("no object with columns")
                    yield f"{path}, line {number}", row
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: not a row as JSON ({error})") from None


def _parquet_rows(path: Path) -> Iterator[TableRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({first_line(error)})") from None


def _dataset_rows(task: OwnTaskRows, split: str) -> Iterator[TableRow]:
    what = f"dataset {task.dataset}, split {split}"
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(
            f"{what}: the Python package datasets is not installed, which reads it; "
            "pip install 'datasets>=4'"
        ) from None
    try:
        table = _load(datasets, task, split)
        classes = {
            name: kind.names
            for name, kind in table.features.items()
            if isinstance(kind, datasets.ClassLabel)
        }
        for number, row in enumerate(table, start=1):
            for name, names in classes.items():
                row[name] = names[row[name]] if row[name] in range(len(names)) else None
            yield f"{what}, row {number}", row
    except UserError:
        raise
    except Exception as error:  # what the library raises changes with the format of the data
        raise UserError(f"{what}: cannot be loaded ({first_line(error)})") from error


def _load(datasets: Any, task: OwnTaskRows, split: str) -> Any:
    """Load a split: of a folder that `save_to_disk` wrote, or of whatever `load_dataset` finds.

    Version 4 of the library, and later ones, run no code of a data set.
    """
    folder = Path(task.dataset)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        saved = datasets.load_from_disk(os.fspath(folder))
        if isinstance(saved, datasets.Dataset):
            return saved
        if split not in saved:
            raise UserError(
                f"{folder}: it has no split {split}; it has {', '.join(map(str, saved))}"
            )
        return saved[split]
    return datasets.load_dataset(
        task.dataset, task.dataset_config, split=split, revision=task.revision
    )
