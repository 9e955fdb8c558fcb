"""Episodes: which demonstrations go with which query, drawn once by a seed and kept as Parquet.

Every method then trains and is scored on the same draws. Each draw has its own generator, seeded by
what it is for (seed, task, split), so that a task added to a list changes nothing for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mend.atomic_io import write_parquet
from mend.data.layout import META_TRAIN_SEED
from mend.data.seeding import generator
from mend.data.selection import RETRIEVED, source_split
from mend.data.tasks import load_rows
from mend.errors import UserError
from mend.progress import Progress, logger

if TYPE_CHECKING:
    import numpy
    import pyarrow


def write_training_episodes(
    spec: Mapping[str, Any], tasks_folder: str | Path, output: str | Path
) -> None:
    """Draw the episodes of meta-training and write them to Parquet, in training order.

    An episode is a task, then `shots` demonstrations and `queries_per_episode` queries: distinct
    rows of the task's meta_train split, in random order (paper, section 3.3). The n-th episode of a
    task has the same rows whatever other tasks there are. Columns: episode, task,
    demonstrations and queries (row numbers).

    Args:
        spec: {"tasks": names, "shots", "queries_per_episode", "episodes", "seed",
            "task_sampling": "uniform" (each task is as likely) | "proportional" (each row is as
            likely, so tasks in proportion to their rows, as the authors' code)}.
        tasks_folder: the folder of `tasks.import_tasks`.
        output: the Parquet file.

    Raises:
        UserError: naming a task with fewer rows than an episode needs, or without a file.
    """
    import numpy
    import pyarrow

    shots, queries, seed = spec["shots"], spec["queries_per_episode"], spec["seed"]
    names = sorted(set(spec["tasks"]))  # so that the order of the list changes nothing
    if not names:
        raise UserError("training episodes: the list of tasks is empty")
    sizes = [
        count_rows(tasks_folder, name).get(("meta_train", META_TRAIN_SEED), 0) for name in names
    ]
    for name, size in zip(names, sizes, strict=True):
        if size < shots + queries:
            raise UserError(
                f"{Path(tasks_folder) / name}.parquet: task {name} has {size} meta-train rows, "
                f"fewer than an episode's {shots} demonstrations and {queries} queries"
            )
    weights = numpy.array(sizes if spec["task_sampling"] == "proportional" else [1] * len(sizes))
    chosen = generator(seed, "tasks").choice(
        len(names), size=spec["episodes"], p=weights / weights.sum()
    )
    generators = [generator(seed, "meta_train", name) for name in names]
    rows = numpy.empty((len(chosen), shots + queries), dtype=numpy.int32)
    progress = Progress("episodes", len(chosen))
    for episode, task in enumerate(chosen):
        rows[episode] = generators[task].choice(sizes[task], shots + queries, replace=False)
        progress.update(episode + 1)
    columns = {
        "episode": pyarrow.array(numpy.arange(len(chosen), dtype=numpy.int32)),
        "task": pyarrow.array([names[task] for task in chosen], pyarrow.string()),
        "demonstrations": _lists(rows[:, :shots]),
        "queries": _lists(rows[:, shots:]),
    }
    write_parquet(pyarrow.table(columns), output)


Texts = Mapping[int, Sequence[str]]
"""Inputs by seed."""

Nearest = Callable[[Texts, Texts, int], "dict[int, numpy.ndarray]"]
"""Queries, pools and shots to the pools' rows that each query is shown; see `retrieval.nearest`."""


def write_evaluation_episodes(
    spec: Mapping[str, Any],
    tasks_folder: str | Path,
    split: str,
    output: str | Path,
    nearest: Nearest | None = None,
) -> None:
    """Choose the demonstrations of each dev or test row, for each seed, and write them as Parquet.

    `selection` says how:

    - train: rows of the `train` split of the seed. With per-row, `shots` of them are drawn afresh
      for each row, without replacement; the draw for fewer shots is the beginning of the draw for
      more. With per-seed, every row sees the first `shots` in file order, as in MetaICL.
    - pool: the same from the `pool` split of the seed (see `tasks.import_tasks`).
    - bm25, dense: the `shots` rows of the pool whose input is nearest to the row's, the nearest
      last (see `retrieval.nearest`); the same whatever `demonstrations_at_test` and `seed` are.

    Where there are fewer rows than `shots`, all are taken, with a warning. Columns: task, seed,
    row, demonstrations, and context: a number that two rows share if and only if they have the
    same task, seed and ordered demonstrations. Unless it is `train`, also selection, which says
    whose numbers the demonstrations are (`selection.source_split`).

    Args:
        spec: {"tasks": names, "shots", "seeds", "demonstrations_at_test": "per-row" | "per-seed",
            "rows": at most so many rows a task (null: all; else a random subset, the same for
            every seed), "seed": of the draws, "selection": train (or absent) | pool |
            bm25 | dense}.
        tasks_folder: the folder of `tasks.import_tasks`.
        split: "dev" or "test".
        output: the Parquet file.
        nearest: finds the rows for bm25 and dense.

    Raises:
        UserError: naming a task that has no rows of the split, of `train` or of the pool for a
            seed.
    """
    import numpy
    import pyarrow

    selection = spec.get("selection", "train")
    parts: list[tuple[str, int, numpy.ndarray, numpy.ndarray, numpy.ndarray]] = []
    contexts = 0
    names = list(dict.fromkeys(spec["tasks"]))
    progress = Progress(f"{split} episodes", len(names))
    for done, name in enumerate(names, start=1):
        sizes = _sizes(spec, tasks_folder, name, split, source_split(selection))
        chosen = {seed: _choose_rows(spec, name, split, size) for seed, (_, size) in sizes.items()}
        if selection in RETRIEVED:
            task = load_rows(tasks_folder, name)
            queries = {
                seed: [task.rows(split, seed)[row].input for row in rows]
                for seed, rows in chosen.items()
            }
            pools = {seed: [row.input for row in task.rows("pool", seed)] for seed in chosen}
            found = nearest(queries, pools, spec["shots"])
        for seed, rows in chosen.items():
            if selection in RETRIEVED:
                shown = found[seed]
            else:
                pool, size = sizes[seed]
                shown = _draw_demonstrations(spec, name, split, seed, size, pool)[rows]
            numbers, distinct = _number_contexts(shown)
            parts.append((name, seed, rows, shown, numbers + contexts))
            contexts += distinct
        progress.update(done, name)
    if not parts:
        raise UserError(f"{split} episodes: the list of tasks or of seeds is empty")
    columns = {
        "task": pyarrow.array([p[0] for p in parts for _ in p[2]], pyarrow.string()),
        "seed": pyarrow.array([p[1] for p in parts for _ in p[2]], pyarrow.int32()),
        "row": pyarrow.array(numpy.concatenate([p[2] for p in parts]), pyarrow.int32()),
        "demonstrations": pyarrow.concat_arrays([_lists(p[3]) for p in parts]),
        "context": pyarrow.array(numpy.concatenate([p[4] for p in parts]), pyarrow.int64()),
    }
    if selection != "train":
        columns["selection"] = pyarrow.array([selection] * len(columns["row"]), pyarrow.string())
    write_parquet(pyarrow.table(columns), output)


def _sizes(
    spec: Mapping[str, Any], tasks_folder: str | Path, name: str, split: str, source: str
) -> dict[int, tuple[int, int]]:
    """For each seed, how many rows a task has to choose from (of `source`) and to ask (of `split`).

    Raises UserError if it has none of either.
    """
    counts = count_rows(tasks_folder, name)
    sizes = {}
    for seed in spec["seeds"]:
        pool, size = counts.get((source, seed), 0), counts.get((split, seed), 0)
        if not pool or not size:
            raise UserError(
                f"{Path(tasks_folder) / name}.parquet: task {name} has {pool} {source} rows and "
                f"{size} {split} rows of seed {seed} (benchmark.seeds)"
            )
        if pool < spec["shots"]:
            logger.warning(
                "task %s, seed %d: %d %s rows, so %d demonstrations instead of %d",
                *(name, seed, pool, source, pool, spec["shots"]),
            )
        sizes[seed] = pool, size
    return sizes


def count_rows(tasks_folder: str | Path, task: str) -> dict[tuple[str, int], int]:
    """How many rows of each (split, seed) a task has; UserError if it has no Parquet file."""
    import pyarrow
    import pyarrow.parquet

    path = Path(tasks_folder) / f"{task}.parquet"
    try:
        table = pyarrow.parquet.read_table(path, columns=["split", "seed"])
    except (FileNotFoundError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path}: not a file that `mend tasks` wrote ({error})") from None
    counts = table.group_by(["split", "seed"]).aggregate([([], "count_all")]).to_pylist()
    return {(row["split"], row["seed"]): row["count_all"] for row in counts}


def _choose_rows(spec: Mapping[str, Any], name: str, split: str, size: int) -> numpy.ndarray:
    """Row numbers to score, ascending. The seed is no part of it: all seeds get the same rows."""
    import numpy

    if spec["rows"] is None or size <= spec["rows"]:
        return numpy.arange(size, dtype=numpy.int32)
    order = generator(spec["seed"], "rows", split, name).permutation(size)
    return numpy.sort(order[: spec["rows"]]).astype(numpy.int32)


def _draw_demonstrations(
    spec: Mapping[str, Any], name: str, split: str, seed: int, size: int, pool: int
) -> numpy.ndarray:
    """Demonstrations of all `size` rows, (size, shots): a limit on rows changes none of them."""
    import numpy

    everything = numpy.tile(numpy.arange(pool, dtype=numpy.int32), (size, 1))
    if spec["demonstrations_at_test"] == "per-row":
        # Rows of the pool are others than those of train, so they are drawn on their own.
        source = [] if spec.get("selection", "train") == "train" else ["pool"]
        draw = generator(spec["seed"], "demonstrations", split, name, seed, *source)
        everything = draw.permuted(everything, axis=1)
    return everything[:, : spec["shots"]]


def _number_contexts(shown: numpy.ndarray) -> tuple[numpy.ndarray, int]:
    """Number the distinct rows of `shown` (rows, shots): (a number a row, how many there are)."""
    import numpy

    if not shown.shape[1]:
        return numpy.zeros(len(shown), dtype=numpy.int64), 1
    distinct, numbers = numpy.unique(shown, axis=0, return_inverse=True)
    return numbers.reshape(-1).astype(numpy.int64), len(distinct)


def _lists(rows: numpy.ndarray) -> pyarrow.ListArray:
    """A (rows, n) array as a column list<int32>."""
    import numpy
    import pyarrow

    offsets = numpy.arange(len(rows) + 1, dtype=numpy.int32) * rows.shape[1]
    values = pyarrow.array(numpy.ascontiguousarray(rows).reshape(-1), pyarrow.int32())
    return pyarrow.ListArray.from_arrays(offsets, values)
