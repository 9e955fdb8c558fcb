"""Larger pools of demonstrations, out of a data set's files as the hub has them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from helpers.rows import write_rows

from mend.configuration.specs.pool import PoolSpec
from mend.configuration.specs.tasks import TasksSpec
from mend.data.pool import write_pools
from mend.data.tasks import import_tasks, load_rows
from mend.errors import UserError

SEEDS = (13, 100)
SPEC = PoolSpec(tasks=["kind:one", "two"], seeds=list(SEEDS), rows=100, missing_tasks="error")


def row(task: str, seed: int, split: str, text: str) -> dict:
    """Return a row as the data set has them: the seed is text."""
    options = ["yes", "no"]
    columns = {"task": task, "input": text, "output": "no", "options": options}
    return {**columns, "seed": str(seed), "split": split}


def rows_of(tasks: tuple[str, ...] = ("kind:one", "two", "other")) -> list[dict]:
    return [
        row(task, seed, split, f"{task} {seed} {split} {number}")
        for task in tasks
        for seed in (*SEEDS, 21)
        for split in ("train", "dev", "test")
        for number in range(100)
    ]


def write_parquet_files(folder: Path, rows: list[dict]) -> str:
    """Write rows as the hub's client does, in two files; return a pattern of their names."""
    folder.mkdir(parents=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        name = f"meta_eval_100shot-{number:05d}-of-00002-0123456789abcdef.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), folder / name)
    other = pyarrow.Table.from_pylist([row("two", 13, "train", "of another split")])
    pyarrow.parquet.write_table(other, folder / "meta_eval-00000-of-00001.parquet")
    return f"{folder}/meta_eval_100shot-*.parquet"


def pool_inputs(folder: Path, task: str, seed: int) -> list[str]:
    path = folder / f"data/{task}/{task}_100_{seed}_train.jsonl"
    return [json.loads(line)["input"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_train_rows_become_files_of_the_layout(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        files = write_parquet_files(tmp_path / "hub", rows_of())
    else:
        files = str(write_rows(tmp_path / "all.jsonl", *rows_of()))
    write_pools(SPEC, [files], tmp_path / "pool")
    for task in SPEC.tasks:
        for seed in SEEDS:
            expected = [f"{task} {seed} train {number}" for number in range(100)]
            assert pool_inputs(tmp_path / "pool", task, seed) == expected
    assert len([*(tmp_path / "pool").rglob("*.jsonl")]) == len(SPEC.tasks) * len(SEEDS)


def small_layout(folder: Path) -> TasksSpec:
    """Write the tasks' usual files; one test row's input is in the pool, too."""
    for task in SPEC.tasks:
        for seed in SEEDS:
            for split in ("train", "dev", "test"):
                path = folder / f"data/{task}/{task}_16_{seed}_{split}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                texts = [f"{task} {seed} {split} own", f"{task} {seed} train 7"]
                texts = texts[: 1 + (split == "test")]
                write_rows(path, *(row(task, seed, split, text) for text in texts))
    return TasksSpec(train_tasks=[], test_tasks=SPEC.tasks, seeds=list(SEEDS), pool=100)


def test_the_tasks_pool_is_that_of_the_files_without_rows_that_are_asked(tmp_path: Path) -> None:
    write_pools(SPEC, [write_parquet_files(tmp_path / "hub", rows_of())], tmp_path / "pool")
    spec = small_layout(tmp_path / "raw")
    import_tasks(spec, tmp_path / "raw", tmp_path / "tasks", tmp_path / "pool")
    for task in SPEC.tasks:
        rows = load_rows(tmp_path / "tasks", task)
        for seed in SEEDS:
            expected = [f"{task} {seed} train {number}" for number in range(100) if number != 7]
            assert [found.input for found in rows.rows("pool", seed)] == expected
            assert [found.input for found in rows.rows("train", seed)] == [
                f"{task} {seed} train own"
            ]


def test_tasks_without_rows_are_told_or_choose_from_all_seeds(tmp_path: Path, caplog) -> None:
    files = [write_parquet_files(tmp_path / "hub", rows_of(("kind:one",)))]
    with pytest.raises(
        UserError, match=r"two \(seed 13\), two \(seed 100\); .*missing_tasks: skip"
    ):
        write_pools(SPEC, files, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()
    skipping = SPEC.model_copy(update={"missing_tasks": "skip"})
    write_pools(skipping, files, tmp_path / "pool")
    assert "two (seed 13), two (seed 100); these choose from the train rows" in caplog.text
    spec = small_layout(tmp_path / "raw")
    import_tasks(spec, tmp_path / "raw", tmp_path / "tasks", tmp_path / "pool")
    found = [text.input for text in load_rows(tmp_path / "tasks", "two").rows("pool", 100)]
    assert found == ["two 100 train own", "two 13 train own"]
    assert len(load_rows(tmp_path / "tasks", "kind:one").rows("pool", 13)) == 99


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    def told(match: str, *files: str) -> None:
        with pytest.raises(UserError, match=match):
            write_pools(SPEC, files, tmp_path / "pool")

    told(r"absent-\*.parquet: no file of the pool", f"{tmp_path}/absent-*.parquet")
    (tmp_path / "x.parquet").write_text("no Parquet")
    told("x.parquet: cannot be read as Parquet", f"{tmp_path}/x.parquet")
    without = [{key: value for key, value in rows_of()[0].items() if key != "seed"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(without), tmp_path / "y.parquet")
    told("y.parquet: no column seed; a pool's rows", f"{tmp_path}/y.parquet")
    told(r"z.jsonl, line 2: not JSON", str(write_rows(tmp_path / "z.jsonl", rows_of()[0], "{")))
    told(r"w.jsonl, line 1: no column", str(write_rows(tmp_path / "w.jsonl", without[0])))


def test_a_row_with_bad_options_is_told_by_file_and_line(tmp_path: Path) -> None:
    rows = rows_of()
    rows[1]["options"] = []
    write_pools(SPEC, [str(write_rows(tmp_path / "all.jsonl", *rows))], tmp_path / "pool")
    spec = small_layout(tmp_path / "raw")
    with pytest.raises(UserError, match=r"kind:one_100_13_train.jsonl, line 2: 'options'"):
        import_tasks(spec, tmp_path / "raw", tmp_path / "tasks", tmp_path / "pool")
