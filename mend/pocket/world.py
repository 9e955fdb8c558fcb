"""Writes the pocket benchmark: tasks in MetaICL's published layout and a text corpus.

The same arguments give the same bytes: everything is sampled from `random.Random` seeded with text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from mend.atomic_io import atomic_folder
from mend.configuration.choices import POCKET_SEEDS as SEEDS
from mend.data.layout import META_TRAIN_SEED
from mend.pocket.passages import DocumentMaker
from mend.pocket.rules import Row, RowMaker, perhaps_wrong
from mend.pocket.universe import TASKS, PocketTask

SHOTS = 16
TEST_ROWS = 200
DOCUMENTS = 8000
WRONG_DEMONSTRATIONS = 0.4
"""Share of training rows, thus of demonstrations, with a wrong answer; other rows are right."""
TASK_LIST, SEALED_LIST = (Path(__file__).with_name(name) for name in ("tasks.csv", "sealed.csv"))


def write_world(
    folder: str | Path,
    seed: int = 0,
    documents: int = DOCUMENTS,
    wrong_answers: float = 0.0,
    pool: int | None = None,
) -> None:
    """Write the benchmark to `folder`, replacing it whole.

    Writes `data/TASK/TASK_16_SEED_{train,dev,test}.jsonl` for each task and seed (the same test
    rows for every seed, as in MetaICL), `data/TASK/TASK_16384_100_train.jsonl` for meta-train tasks
    (with fewer than 16384 rows) and `corpus/part-00000.jsonl` with rows {"text": ...}. With `pool`
    also `data/TASK/TASK_{pool}_SEED_train.jsonl` for meta-test tasks: see `pool_files`.

    Args:
        folder: where to write.
        seed: changes the rows and documents; not the tasks.
        documents: number of corpus documents, each of some 100 to 190 words.
        wrong_answers: probability that a row of a list in the corpus has a wrong label.
        pool: number of rows of the larger train files; None for none.
    """
    with atomic_folder(folder) as temporary:
        for task in TASKS:
            data = temporary / "data" / task.name
            data.mkdir(parents=True)
            files = task_files(task, seed)
            if pool and task.role != "train":
                files |= pool_files(task, seed, pool, files)
            for name, rows in files.items():
                _write_lines(data / f"{name}.jsonl", (_record(task, row) for row in rows))
        corpus = temporary / "corpus"
        corpus.mkdir()
        texts = ({"text": text} for text in corpus_texts(seed, documents, wrong_answers))
        _write_lines(corpus / "part-00000.jsonl", texts)


def task_files(task: PocketTask, seed: int = 0) -> dict[str, list[Row]]:
    """Return a task's files by MetaICL's names (without .jsonl).

    The rows of different splits are disjoint; those of one split and seed are distinct.
    """
    rng = Random(f"pocket world {seed}: {task.name}")
    maker = RowMaker(task.rule, rng)
    held_out = set(test := _distinct_rows(maker, TEST_ROWS, set()))
    files = {}
    for split_seed in SEEDS:
        for split in ("train", "dev"):
            # A seed's dev rows are disjoint from every seed's training rows and the reverse.
            other = "dev" if split == "train" else "train"
            taken = {r for s in SEEDS for r in files.get(f"{task.name}_{SHOTS}_{s}_{other}", ())}
            rows = _distinct_rows(maker, SHOTS, held_out | taken)
            files[f"{task.name}_{SHOTS}_{split_seed}_{split}"] = rows
        files[f"{task.name}_{SHOTS}_{split_seed}_test"] = test
    if task.role == "train":
        taken = held_out.union(*files.values())
        files[f"{task.name}_16384_{META_TRAIN_SEED}_train"] = _distinct_rows(
            maker, task.rows, taken
        )
    return {
        name: _noisy(rows, rng) if name.endswith("train") else rows for name, rows in files.items()
    }


def pool_files(
    task: PocketTask, seed: int, number: int, files: dict[str, list[Row]]
) -> dict[str, list[Row]]:
    """Return a task's larger train files by MetaICL's names (without .jsonl).

    Each begins with the seed's own train rows and has `number` rows of distinct inputs, or as many
    as there are; none has the input of a dev or test row of any seed (as a train row may have,
    with other options). Their classes are balanced as far as there are rows.

    Args:
        task: a meta-test task.
        seed: that of the world.
        number: how many rows a file should have, more than SHOTS.
        files: what `task_files` gave for the task and seed.
    """
    held_out = {
        row.input for name, rows in files.items() if not name.endswith("train") for row in rows
    }
    pools = {}
    for split_seed in SEEDS:
        maker = RowMaker(task.rule, Random(f"pocket pool {seed}: {task.name} {split_seed}"))
        train = files[f"{task.name}_{SHOTS}_{split_seed}_train"]
        first = {row.input: row for row in train if row.input not in held_out}
        more = _noisy(_more_inputs(maker, number - len(first), held_out | first.keys()), maker.rng)
        pools[f"{task.name}_{number}_{split_seed}_train"] = [*first.values(), *more]
    return pools


def corpus_texts(
    seed: int = 0, documents: int = DOCUMENTS, wrong_answers: float = 0.0
) -> Iterator[str]:
    """Yield the corpus's documents."""
    maker = DocumentMaker(Random(f"pocket corpus {seed}"), wrong_answers=wrong_answers)
    for _ in range(documents):
        yield " ".join(maker.document().words)


def _noisy(rows: Iterable[Row], rng: Random) -> list[Row]:
    return [perhaps_wrong(row, WRONG_DEMONSTRATIONS, rng) for row in rows]


def _distinct_rows(maker: RowMaker, number: int, taken: set[Row]) -> list[Row]:
    """Sample distinct rows outside `taken`, their classes balanced, in random order.

    Raises ValueError if there are too few such rows.
    """
    rows: dict[Row, None] = {}
    attempts = 0
    while len(rows) < number and attempts < 50 * number:
        row = maker.row(len(rows) % maker.classes())
        if row not in taken:
            rows[row] = None
        attempts += 1
    if len(rows) < number:
        raise ValueError(f"rule {maker.rule} has fewer than {number} distinct rows left")
    shuffled = list(rows)
    maker.rng.shuffle(shuffled)
    return shuffled


def _more_inputs(maker: RowMaker, number: int, taken: set[tuple[str, ...]]) -> list[Row]:
    """Sample up to `number` rows of distinct inputs outside `taken`, in random order.

    The classes come in turn; one that gives nothing new in 1,000 samples is taken to be exhausted.
    """
    rows: dict[tuple[str, ...], Row] = {}
    classes = list(range(maker.classes()))
    misses = 0
    while len(rows) < number and classes:
        turn = len(rows) % len(classes)
        row = maker.row(classes[turn])
        if row.input in taken or row.input in rows:
            misses += 1
            if misses == 1000:
                del classes[turn]
                misses = 0
        else:
            rows[row.input] = row
            misses = 0
    found = list(rows.values())
    maker.rng.shuffle(found)
    return found


def _record(task: PocketTask, row: Row) -> dict:
    return {
        "task": task.name,
        "input": " ".join(row.input),
        "output": row.output,
        "options": list(row.options),
    }


def _write_lines(path: Path, records: Iterable[dict]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record) + "\n")
