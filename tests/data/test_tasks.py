"""Checking a folder before any job, and turning its tasks into Parquet."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from helpers.rows import GOOD, write_rows

from mend.atomic_io import MADE
from mend.configuration.choices import PARTITIONS
from mend.configuration.specs.tasks import TasksSpec
from mend.configuration.task_list import partition_needs, read_task_list
from mend.data.layout import read_rows
from mend.data.preflight import check_benchmark, remaining_needs
from mend.data.tasks import import_tasks, load_rows
from mend.errors import UserError

REPOSITORY = Path(__file__).parents[2]
SEEDS = [13, 21]
COLUMNS = ",".join(["task", "type", "options", *PARTITIONS])


def numbered(task: str, split: str, count: int) -> list[dict]:
    return [
        {"task": task, "input": f"{split} {i}", "output": "ab"[i % 2], "options": ["a", "b"]}
        for i in range(count)
    ]


@pytest.fixture
def world(tmp_path):
    """A folder with two meta-train tasks (one free-form) and two meta-test tasks, and its list."""
    folder = tmp_path / "world"
    free = [{"task": "free", "input": str(i), "output": "anything"} for i in range(6)]
    write_rows(folder / "data/free/free_16384_100_train.jsonl", *free)
    rows = numbered("choice", "pool", 9)
    write_rows(folder / "data/choice/choice_16384_100_train.jsonl", *rows)
    for task in ("kind:one", "two"):
        for seed in SEEDS:
            for split, count in (("train", 4), ("dev", 3), ("test", 5)):
                path = folder / f"data/{task}/{task}_16_{seed}_{split}.jsonl"
                write_rows(path, *numbered(task, f"{split} {seed}", count))
    listed = tmp_path / "tasks.csv"
    lines = [
        COLUMNS,
        "free,free-form,,train,train,,,,,",
        "choice,classification,,train,train,,,,,",
        "kind:one,multi-choice,,test,,,,,,",
        "two,multi-choice,,test,test,,,,,",
    ]
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tasks = read_task_list(listed)
    return folder, tasks, partition_needs(tasks, ["class_to_class", "non_class_to_class"])


def test_a_right_folder_has_nothing_missing(world, tmp_path):
    folder, tasks, needs = world
    assert check_benchmark(folder, tasks, needs, SEEDS, tmp_path / "stamp.json") == {}


def test_all_missing_tasks_are_named_by_partition(world, tmp_path):
    folder, tasks, needs = world
    (folder / "data/choice/choice_16384_100_train.jsonl").unlink()
    (folder / "data/choice").rmdir()
    (folder / "data/two/two_16_13_dev.jsonl").unlink()
    (folder / "data/two/two_16_21_test.jsonl").unlink()
    with pytest.raises(UserError) as raised:
        check_benchmark(folder, tasks, needs, SEEDS, tmp_path / "stamp.json")
    lines = str(raised.value).splitlines()
    assert "benchmark.missing_tasks: skip" in lines[0]
    assert lines[1:] == [
        "  class_to_class, meta-train: choice (no folder)",
        "  class_to_class, meta-test: two (no two_16_13_dev.jsonl and 1 more)",
        "  non_class_to_class, meta-train: choice (no folder)",
        "  non_class_to_class, meta-test: two (no two_16_13_dev.jsonl and 1 more)",
    ]


def test_missing_tasks_can_be_skipped(world, tmp_path):
    folder, tasks, needs = world
    (folder / "data/two/two_16_13_dev.jsonl").unlink()
    missing = check_benchmark(folder, tasks, needs, SEEDS, tmp_path / "stamp.json", "skip")
    assert missing["non_class_to_class"] == {"test": {"two": "no two_16_13_dev.jsonl"}}
    # non_class_to_class has no meta-test task left, so the partition goes.
    assert remaining_needs(needs, missing) == {
        "class_to_class": {"train": ("free", "choice"), "test": ("kind:one",)}
    }


def test_only_free_form_tasks_may_lack_options(world, tmp_path):
    folder, tasks, needs = world
    path = folder / "data/choice/choice_16384_100_train.jsonl"
    write_rows(path, GOOD, {**GOOD, "options": []})
    with pytest.raises(UserError, match=r"choice_16384_100_train.jsonl, line 2: 'options' is miss"):
        check_benchmark(folder, tasks, needs, SEEDS, tmp_path / "stamp.json")


def test_bad_rows_of_tasks_that_are_not_needed_do_not_matter(world, tmp_path):
    folder, tasks, needs = world
    write_rows(folder / "data/kind:one/kind:one_16_13_dev.jsonl", "{")
    only = {"non_class_to_class": needs["non_class_to_class"]}
    assert check_benchmark(folder, tasks, only, SEEDS, tmp_path / "stamp.json") == {}
    with pytest.raises(UserError, match=r"kind:one_16_13_dev.jsonl, line 1: not JSON"):
        check_benchmark(folder, tasks, needs, SEEDS, tmp_path / "stamp.json")


def test_a_folder_without_the_layout(world, tmp_path):
    _, tasks, needs = world
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no folder `data`"):
        check_benchmark(tmp_path / "empty", tasks, needs, SEEDS, tmp_path / "stamp.json")


def test_the_stamp_spares_reading_until_a_file_changes(world, tmp_path, monkeypatch):
    folder, tasks, needs = world
    stamp = tmp_path / "results" / "stamp.json"
    check_benchmark(folder, tasks, needs, SEEDS, stamp)
    read = []

    def note(path, options_required):
        read.append(path.name)
        return read_rows(path, options_required)

    monkeypatch.setattr("mend.data.preflight.read_rows", note)
    check_benchmark(folder, tasks, needs, SEEDS, stamp)
    assert read == []
    changed = folder / "data/two/two_16_13_dev.jsonl"
    status = changed.stat()
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    check_benchmark(folder, tasks, needs, SEEDS, stamp)
    assert read == ["two_16_13_dev.jsonl"]
    write_rows(changed, "{")
    for _ in range(2):  # a bad file is not stamped
        with pytest.raises(UserError, match="two_16_13_dev.jsonl, line 1: not JSON"):
            check_benchmark(folder, tasks, needs, SEEDS, stamp)


@pytest.mark.parametrize("content", ["", "[]", '{"rules": 0, "files": {}}', '{"rules": 1}'])
def test_a_stamp_that_does_not_count(world, tmp_path, content):
    folder, tasks, needs = world
    stamp = tmp_path / "stamp.json"
    stamp.write_text(content)
    assert check_benchmark(folder, tasks, needs, SEEDS, stamp) == {}
    write_rows(folder / "data/two/two_16_13_dev.jsonl", "{")
    stamp.write_text(content)
    with pytest.raises(UserError):
        check_benchmark(folder, tasks, needs, SEEDS, stamp)


def test_a_stamp_that_cannot_be_written_is_only_a_warning(world, tmp_path, caplog):
    folder, tasks, needs = world
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="mend"):
        check_benchmark(folder, tasks, needs, SEEDS, tmp_path / "file" / "stamp.json")
    assert "cannot be written" in caplog.text


def test_import_writes_the_schema(world, tmp_path):
    folder, *_ = world
    spec = TasksSpec(train_tasks=["free", "choice"], test_tasks=["kind:one"], seeds=SEEDS)
    output = tmp_path / "tasks"
    import_tasks(spec, folder, output)
    assert sorted(path.name for path in output.iterdir()) == [
        MADE,
        "choice.parquet",
        "free.parquet",
        "kind:one.parquet",
    ]
    table = pyarrow.parquet.read_table(output / "kind:one.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "split": "string",
        "seed": "int32",
        "row": "int32",
        "input": "string",
        "output": "string",
        "options": "list<element: string>",
    }
    assert len(table) == 2 * (4 + 3 + 5 + 8)
    assert table["row"].to_pylist()[:7] == [0, 1, 2, 3, 0, 1, 2]
    free = load_rows(output, "free").rows("meta_train")
    assert free[2] == ("2", "anything", [])
    assert len(load_rows(output, "choice").rows("meta_train")) == 9
    rows = load_rows(output, "kind:one").rows("dev", 21)
    assert rows == [(f"dev 21 {i}", "ab"[i % 2], ["a", "b"]) for i in range(3)]
    assert rows[0].input == "dev 21 0"
    assert rows[0].output == "a"


def test_without_larger_files_the_pool_is_the_train_rows_of_all_seeds(world, tmp_path):
    folder, *_ = world
    path = folder / "data/two/two_16_21_train.jsonl"
    row = {"task": "two", "output": "a", "options": ["a", "b"]}
    inputs = ("new", "train 13 0", "dev 13 1", "dev 21 1", "test 13 2", "new")
    write_rows(
        path, *({**row, "input": text} for text in inputs), {**row, "input": "new", "output": "b"}
    )
    spec = TasksSpec(train_tasks=[], test_tasks=["two"], seeds=SEEDS)
    import_tasks(spec, folder, tmp_path / "tasks")
    rows = load_rows(tmp_path / "tasks", "two")
    # Its own rows first, each once, and none that this seed asks about.
    own = [(f"train 13 {i}", "ab"[i % 2]) for i in range(4)]
    assert [row[:2] for row in rows.rows("pool", 13)] == [
        *own,
        ("new", "a"),
        ("dev 21 1", "a"),
        ("new", "b"),
    ]
    assert [row[:2] for row in rows.rows("pool", 21)] == [
        ("new", "a"),
        own[0],
        ("dev 13 1", "a"),
        ("test 13 2", "a"),
        ("new", "b"),
        *own[1:],
    ]
    assert len(rows.rows("train", 21)) == 7


def test_the_pool_comes_from_larger_files_where_there_are_some(world, tmp_path):
    folder, tasks, needs = world
    only = {"non_class_to_class": {"train": ("free",), "test": ("two",)}}
    spec = TasksSpec(train_tasks=["free"], test_tasks=["two"], seeds=SEEDS, pool=9)
    with pytest.raises(UserError, match=r"two \(no two_9_13_train.jsonl and 1 more\)"):
        check_benchmark(folder, tasks, only, SEEDS, tmp_path / "stamp.json", pool=9)
    for seed in SEEDS:
        rows = numbered("two", f"pool {seed}", 6) + numbered("two", f"test {seed}", 3)
        write_rows(folder / f"data/two/two_9_{seed}_train.jsonl", *rows)
    assert check_benchmark(folder, tasks, only, SEEDS, tmp_path / "stamp.json", pool=9) == {}
    import_tasks(spec, folder, tmp_path / "tasks")
    rows = load_rows(tmp_path / "tasks", "two")
    for seed in SEEDS:
        assert [row.input for row in rows.rows("pool", seed)] == [
            f"pool {seed} {i}" for i in range(6)
        ]
        assert len(rows.rows("train", seed)) == 4
    write_rows(folder / "data/two/two_9_13_train.jsonl", {**GOOD, "options": []})
    with pytest.raises(UserError, match=r"two_9_13_train.jsonl, line 1: 'options' is missing"):
        import_tasks(spec, folder, tmp_path / "tasks")


def test_import_streams_in_batches_without_changing_rows(world, tmp_path, monkeypatch):
    folder, *_ = world
    spec = TasksSpec(train_tasks=["choice"], test_tasks=[], seeds=[])
    monkeypatch.setattr("mend.data.tasks._BATCH", 4)
    import_tasks(spec, folder, tmp_path / "tasks")
    table = pyarrow.parquet.read_table(tmp_path / "tasks/choice.parquet")
    assert table["row"].to_pylist() == list(range(9))
    assert table["input"].to_pylist() == [f"pool {i}" for i in range(9)]


def test_a_failed_import_leaves_the_old_folder(world, tmp_path):
    folder, *_ = world
    spec = TasksSpec(train_tasks=["choice"], test_tasks=["two"], seeds=SEEDS)
    output = tmp_path / "tasks"
    import_tasks(spec, folder, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    write_rows(folder / "data/two/two_16_21_test.jsonl", *numbered("two", "x", 2), "{")
    with pytest.raises(UserError, match=r"two_16_21_test.jsonl, line 3: not JSON"):
        import_tasks(spec, folder, output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_import_refuses_test_rows_without_options(world, tmp_path):
    folder, *_ = world
    path = folder / "data/two/two_16_13_test.jsonl"
    write_rows(path, {**GOOD, "options": []})
    spec = TasksSpec(train_tasks=[], test_tasks=["two"], seeds=[13])
    with pytest.raises(UserError, match=r"two_16_13_test.jsonl, line 1: 'options' is missing"):
        import_tasks(spec, folder, tmp_path / "tasks")


def test_rows_that_are_not_there(world, tmp_path):
    folder, *_ = world
    spec = TasksSpec(train_tasks=["choice"], test_tasks=[], seeds=[])
    import_tasks(spec, folder, tmp_path / "o")
    with pytest.raises(UserError, match=r"choice.parquet: it has no rows of split dev, seed 13"):
        load_rows(tmp_path / "o", "choice").rows("dev", 13)
    with pytest.raises(UserError, match=r"absent.parquet"):
        load_rows(tmp_path / "o", "absent")
    (tmp_path / "o/broken.parquet").write_text("no")
    with pytest.raises(UserError, match=r"broken.parquet"):
        load_rows(tmp_path / "o", "broken")


def test_parsing_the_snakefile_stays_light():
    code = (
        "import sys, mend.configuration.task_list, mend.data.tasks, mend.data.template, "
        "mend.data.corpus, mend.data.evaluation_episodes, mend.data.training_episodes, "
        "mend.data.hub, mend.data.perturbation\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'pandas', 'numpy', 'datasets', 'tokenizers',"
        " 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
