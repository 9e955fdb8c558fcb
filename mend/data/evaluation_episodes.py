"""Evaluation episodes: which demonstrations each dev or test row gets, chosen once and kept.

Every method is scored with the same ones. Each choice has its own random generator, seeded by what
it is for (seed, split, task), so that a task added to a list changes nothing for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mend.atomic_io import write_parquet
from mend.configuration.conditions import RETRIEVED
from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
from mend.data.layout import source_split
from mend.data.seeding import generator
from mend.data.tasks import count_rows, load_rows, row_lists
from mend.errors import UserError
from mend.progress import Progress, logger
from mend.provenance import checksums

if TYPE_CHECKING:
    import numpy


Texts = Mapping[int, Sequence[str]]
"""Inputs by seed."""

Nearest = Callable[[Texts, Texts, int], "dict[int, numpy.ndarray]"]
"""Queries, pools and shots to the pools' rows that each query gets; see `retrieval.nearest`."""


def write_evaluation_episodes(
    spec: EvaluationEpisodesSpec,
    tasks_folder: str | Path,
    split: str,
    output: str | Path,
    nearest: Nearest | None = None,
) -> None:
    """Choose the demonstrations of each dev or test row, for each seed, and write them as Parquet.

    `selection` says how:

    - train: rows of the `train` split of the seed. With per-row, `shots` of them are sampled anew
      for each row, without replacement; the sample for fewer shots is the beginning of that for
      more. With per-seed, every row sees the first `shots` in file order, as in MetaICL.
    - pool: the same from the `pool` split of the seed (see `tasks.import_tasks`).
    - bm25, dense: the `shots` rows of the pool whose input is nearest to the row's, the nearest
      last (see `retrieval.nearest`); the same whatever `demonstrations_at_test` and `seed` are.

    Where there are fewer rows than `shots`, all are taken, with a warning. Columns: task, seed,
    row, demonstrations, and context: a number that two rows share if and only if they have the
    same task, seed and ordered demonstrations. Unless it is `train`, also selection, which says
    whose numbers the demonstrations are (`layout.source_split`).

    Args:
        spec: whose rows, and how demonstrations are chosen.
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

    parts: list[tuple[str, int, numpy.ndarray, numpy.ndarray, numpy.ndarray]] = []
    contexts = 0
    names = list(dict.fromkeys(spec.tasks))
    progress = Progress(f"{split} episodes", len(names))
    for done, name in enumerate(names, start=1):
        sizes = _sizes(spec, tasks_folder, name, split, source_split(spec.selection))
        chosen = {seed: _choose_rows(spec, name, split, size) for seed, (_, size) in sizes.items()}
        if spec.selection in RETRIEVED:
            task = load_rows(tasks_folder, name)
            queries = {
                seed: [task.rows(split, seed)[row].input for row in rows]
                for seed, rows in chosen.items()
            }
            pools = {seed: [row.input for row in task.rows("pool", seed)] for seed in chosen}
            found = nearest(queries, pools, spec.shots)
        for seed, rows in chosen.items():
            if spec.selection in RETRIEVED:
                demonstrations = found[seed]
            else:
                pool, size = sizes[seed]
                demonstrations = _sample(spec, name, split, seed, size, pool)[rows]
            numbers, distinct = _number_contexts(demonstrations)
            parts.append((name, seed, rows, demonstrations, numbers + contexts))
            contexts += distinct
        progress.update(done, name)
    if not parts:
        raise UserError(f"{split} episodes: the list of tasks or of seeds is empty")
    columns = {
        "task": pyarrow.array([p[0] for p in parts for _ in p[2]], pyarrow.string()),
        "seed": pyarrow.array([p[1] for p in parts for _ in p[2]], pyarrow.int32()),
        "row": pyarrow.array(numpy.concatenate([p[2] for p in parts]), pyarrow.int32()),
        "demonstrations": pyarrow.concat_arrays([row_lists(p[3]) for p in parts]),
        "context": pyarrow.array(numpy.concatenate([p[4] for p in parts]), pyarrow.int64()),
    }
    if spec.selection != "train":
        selections = [spec.selection] * len(columns["row"])
        columns["selection"] = pyarrow.array(selections, pyarrow.string())
    files = [Path(tasks_folder) / f"{name}.parquet" for name in names]
    write_parquet(pyarrow.table(columns), output, checksums(files, output))


def _sizes(
    spec: EvaluationEpisodesSpec, tasks_folder: str | Path, name: str, split: str, source: str
) -> dict[int, tuple[int, int]]:
    """For each seed, how many rows a task has to choose from (of `source`) and to ask (of `split`).

    Raises UserError if it has none of either.
    """
    counts = count_rows(tasks_folder, name)
    sizes = {}
    for seed in spec.seeds:
        pool, size = counts.get((source, seed), 0), counts.get((split, seed), 0)
        if not pool or not size:
            raise UserError(
                f"{Path(tasks_folder) / name}.parquet: task {name} has {pool} {source} rows and "
                f"{size} {split} rows of seed {seed} (benchmark.seeds)"
            )
        if pool < spec.shots:
            logger.warning(
                "task %s, seed %d: %d %s rows, so %d demonstrations instead of %d",
                name,
                seed,
                pool,
                source,
                pool,
                spec.shots,
            )
        sizes[seed] = pool, size
    return sizes


def _choose_rows(spec: EvaluationEpisodesSpec, name: str, split: str, size: int) -> numpy.ndarray:
    """Row numbers to score, ascending. The seed is no part of it: all seeds get the same rows."""
    import numpy

    if spec.rows is None or size <= spec.rows:
        return numpy.arange(size, dtype=numpy.int32)
    order = generator(spec.seed, "rows", split, name).permutation(size)
    return numpy.sort(order[: spec.rows]).astype(numpy.int32)


def _sample(
    spec: EvaluationEpisodesSpec, name: str, split: str, seed: int, size: int, pool: int
) -> numpy.ndarray:
    """Demonstrations of all `size` rows, (size, shots): a limit on rows changes none of them."""
    import numpy

    everything = numpy.tile(numpy.arange(pool, dtype=numpy.int32), (size, 1))
    if spec.demonstrations_at_test == "per-row":
        # Rows of the pool are others than those of train, so they are sampled on their own.
        source = [] if spec.selection == "train" else ["pool"]
        random = generator(spec.seed, "demonstrations", split, name, seed, *source)
        everything = random.permuted(everything, axis=1)
    return everything[:, : spec.shots]


def _number_contexts(demonstrations: numpy.ndarray) -> tuple[numpy.ndarray, int]:
    """Number the distinct ones of (rows, shots): (a number a row, how many there are)."""
    import numpy

    if not demonstrations.shape[1]:
        return numpy.zeros(len(demonstrations), dtype=numpy.int64), 1
    distinct, numbers = numpy.unique(demonstrations, axis=0, return_inverse=True)
    return numbers.reshape(-1).astype(numpy.int64), len(distinct)
