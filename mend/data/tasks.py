"""Tasks in MetaICL's layout, turned into one Parquet file a task, and read from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mend.atomic_io import PARQUET, atomic_folder, made_by
from mend.configuration.specs.tasks import TasksSpec
from mend.data.layout import (
    META_TRAIN_SEED,
    BenchmarkFile,
    Row,
    benchmark_files,
    read_rows,
)
from mend.data.parquet import NUMBER, TEXT, read_columns
from mend.errors import UserError
from mend.progress import Progress
from mend.provenance import RECORD, checksums

if TYPE_CHECKING:
    import numpy
    import pyarrow

COLUMNS = {"split": TEXT, "seed": NUMBER, "row": NUMBER, "input": TEXT, "output": TEXT}
COLUMNS |= {"options": [TEXT]}
WHAT = "rows of a task"

_BATCH = 8192  # rows held in memory at once while a task is converted


def import_tasks(
    spec: TasksSpec,
    folder: str | Path,
    output_folder: str | Path,
    pool_folder: str | Path | None = None,
    own_folder: str | Path | None = None,
) -> None:
    """Convert tasks from the layout to `output_folder/TASK.parquet`, with flat memory.

    Columns: split (meta_train, train, dev, test or pool), seed, row (within split and seed), input,
    output, options. The output folder is replaced as a whole.

    The pool of a task and seed, for more or better chosen demonstrations than its train rows, is
    what its larger train file holds, or without one the train rows of all seeds, its own first:
    each distinct (input, output) once, and none whose input is that of a dev or test row.

    Args:
        spec: which tasks.
        folder: the folder that holds `data/TASK/...`.
        output_folder: receives one file a task and nothing else.
        pool_folder: holds the larger train files, as far as there are any; None: `folder` has them.
        own_folder: holds tasks of one's own, in the same layout; None: there are none.

    Raises:
        UserError: as `read_rows`. The task's type is not known here, so meta-train rows may lack
            options; `check_benchmark` is stricter.
    """
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            ("split", pyarrow.string()),
            ("seed", pyarrow.int32()),
            ("row", pyarrow.int32()),
            ("input", pyarrow.string()),
            ("output", pyarrow.string()),
            ("options", pyarrow.list_(pyarrow.string())),
        ]
    )
    output_folder = Path(output_folder)
    files: dict[str, list[BenchmarkFile]] = {}
    for file in benchmark_files(spec.train_tasks, spec.test_tasks, spec.seeds, spec.pool):
        files.setdefault(file.task, []).append(file)
    with atomic_folder(output_folder) as temporary:
        progress = Progress("tasks", len(files))
        for count, (task, task_files) in enumerate(files.items(), start=1):
            name = f"{task}.parquet"
            place, pool, own = Path(folder), pool_folder, False
            if own_folder and (Path(own_folder) / "data" / task).is_dir():
                place, pool, own = Path(own_folder), None, True
            sources = [_path(place, file, pool) for file in task_files]
            sources += [place / RECORD] * own
            made_of = made_by(checksums(sources, output_folder / name))
            writing = pyarrow.parquet.ParquetWriter(
                temporary / name, schema.with_metadata(made_of), **PARQUET
            )
            with writing as writer:
                for split, seed, rows in _splits(place, task_files, pool, own):
                    for batch in _batches(rows, split, seed, schema):
                        writer.write_batch(batch)
            progress.update(count, task)


def _path(folder: Path, file: BenchmarkFile, pool_folder: str | Path | None) -> Path:
    """Return where a task's file is."""
    return (Path(pool_folder) if pool_folder and file.split == "pool" else folder) / file.name


def _splits(
    folder: Path, files: Sequence[BenchmarkFile], pool_folder: str | Path | None, own: bool
) -> Iterator[tuple[str, int, Iterator[Row]]]:
    """Yield (split, seed, rows) of a task: its files as they are, then the pool of each seed.

    own: it is one's own, which may be free-form.
    """

    def path(file: BenchmarkFile) -> Path:
        return _path(folder, file, pool_folder)

    def rows(file: BenchmarkFile) -> Iterator[Row]:
        return read_rows(path(file), options_required=not own and file.split != "meta_train")

    def of(split: str) -> dict[int, BenchmarkFile]:
        return {file.seed: file for file in files if file.split == split}

    for file in files:
        if file.split != "pool":
            yield file.split, file.seed, rows(file)
    larger, train = of("pool"), of("train")
    if pool_folder:
        larger = {seed: file for seed, file in larger.items() if path(file).is_file()}
    for seed in train:
        own_first = sorted(train, key=lambda other: other != seed)
        sources = [larger[seed]] if seed in larger else [train[other] for other in own_first]
        held_out = {row.input for split in ("dev", "test") for row in rows(of(split)[seed])}
        found: dict[tuple[str, str], Row] = {}
        for row in (row for source in sources for row in rows(source)):
            if row.input not in held_out:
                found.setdefault(row[:2], row)
        yield "pool", seed, iter(found.values())


def _batches(
    rows: Iterator[Row], split: str, seed: int, schema: pyarrow.Schema
) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    start = 0
    while batch := list(islice(rows, _BATCH)):
        inputs, outputs, options = zip(*batch, strict=True)
        columns = [
            [split] * len(batch),
            [seed] * len(batch),
            range(start, start + len(batch)),
            inputs,
            outputs,
            options,
        ]
        yield pyarrow.record_batch(
            [pyarrow.array(c, t) for c, t in zip(columns, schema.types, strict=True)],
            schema=schema,
        )
        start += len(batch)


class TaskRows:
    """The rows of one task, as `import_tasks` wrote them, turned into Python when asked for."""

    def __init__(self, path: str | Path) -> None:
        """Read `TASK.parquet`; raises UserError if it is missing or no such file."""
        self.path = Path(path)
        self._table = read_columns(self.path, COLUMNS, WHAT)
        self._rows: dict[tuple[str, int], list[Row]] = {}

    def rows(self, split: str, seed: int = META_TRAIN_SEED) -> list[Row]:
        """Rows of a split and seed, in file order, so that `row` indexes the list.

        Raises:
            UserError: if the file has none.
        """
        if (split, seed) not in self._rows:
            from pyarrow import compute

            chosen = (compute.field("split") == split) & (compute.field("seed") == seed)
            table = self._table.filter(chosen)
            if not len(table):
                raise UserError(f"{self.path}: it has no rows of split {split}, seed {seed}")
            columns = (table[name].to_pylist() for name in Row._fields)
            rows = list(map(Row, *columns))
            wrong = (row.options and row.output not in row.options for row in rows)
            if any(wrong) or table["row"].to_pylist() != list(range(len(rows))):
                raise UserError(
                    f"{self.path}: the rows of split {split}, seed {seed}, are not as `mend tasks` "
                    "wrote them; make it again"
                )
            self._rows[split, seed] = rows
        return self._rows[split, seed]


def load_rows(tasks_folder: str | Path, task: str) -> TaskRows:
    """The rows of `task` from a folder that `import_tasks` wrote."""
    return TaskRows(Path(tasks_folder) / f"{task}.parquet")


def labels_of(rows: Sequence[Row]) -> list[str]:
    """Return a task's labels in alphabetical order; none unless all rows have the same options."""
    labels = set(rows[0].options)
    if len(labels) < 2 or any(set(row.options) != labels for row in rows):
        return []
    return sorted(labels)


def count_rows(tasks_folder: str | Path, task: str) -> dict[tuple[str, int], int]:
    """How many rows of each (split, seed) a task has; UserError if it has no Parquet file."""
    path = Path(tasks_folder) / f"{task}.parquet"
    table = read_columns(path, {"split": TEXT, "seed": NUMBER}, WHAT)
    counts = table.group_by(["split", "seed"]).aggregate([([], "count_all")]).to_pylist()
    return {(row["split"], row["seed"]): row["count_all"] for row in counts}


def row_lists(rows: numpy.ndarray) -> pyarrow.ListArray:
    """An array of row numbers, (rows, n), as a column of lists."""
    import numpy
    import pyarrow

    offsets = numpy.arange(len(rows) + 1, dtype=numpy.int32) * rows.shape[1]
    values = pyarrow.array(numpy.ascontiguousarray(rows).reshape(-1), pyarrow.int32())
    return pyarrow.ListArray.from_arrays(offsets, values)
