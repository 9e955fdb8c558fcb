"""Damaged rows and files: one clear line, or the rows that are there; never anything else."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from helpers.damage import UNREADABLE, flip_anywhere
from helpers.fuzzing import fuzzed, within
from hypothesis import given
from hypothesis import strategies as st

from mend.atomic_io import read_json
from mend.configuration.specs.pool import PoolSpec
from mend.configuration.specs.tasks import TasksSpec
from mend.configuration.specs.training_episodes import TrainingEpisodesSpec
from mend.data.corpus import read_documents
from mend.data.examples import EpisodeExamples
from mend.data.items import read_items
from mend.data.layout import benchmark_files, read_rows
from mend.data.parquet import NUMBER, REAL, TEXT, read_columns
from mend.data.pool import write_pools
from mend.data.tasks import import_tasks, load_rows
from mend.data.training_episodes import write_training_episodes
from mend.errors import UserError

SECONDS = 60
SEED = 13
WORDS = st.sampled_from(
    ["yes", "no", "YES", "yes ", "", " ", "a\0b", "ü😀", "\u2028", "<b>", "../x"]
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["\ud800", 10**400, [], {}, [[]], [None]]),
)
ROWS = st.fixed_dictionaries(
    {
        "task": WORDS | ODD,
        "input": WORDS | ODD,
        "output": WORDS | ODD,
        "options": st.lists(WORDS | ODD, max_size=4) | ODD,
    }
)
GOOD = {"task": "t", "input": "w1 w2", "output": "yes", "options": ["yes", "no"]}


def refused(read: Callable[[], Any]) -> Any:
    """Return what is read, or None after one clear line; anything else fails the test."""
    try:
        with within(SECONDS):
            return read()
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert 5 < len(line) < 1500
    return None


def is_right(row: Any) -> bool:
    """Whether a row is one that can be scored: another way to say it than the reader's."""
    texts = [row["task"], row["input"], row["output"]]
    options = row["options"]
    if not (isinstance(options, list) and len(options) > 1 and row["output"] in options):
        return False
    with contextlib.suppress(TypeError, UnicodeEncodeError):
        return bool("".join([*texts[1:], *options]).encode() or True) and isinstance(texts[0], str)
    return False


@fuzzed(150)
@given(rows=st.lists(ROWS | st.just(GOOD), min_size=1, max_size=3), end=st.sampled_from(["\n", ""]))
def test_rows_are_read_as_they_are_or_refused_by_line(tmp_path_factory, rows, end: str) -> None:
    path = tmp_path_factory.mktemp("rows") / "t.jsonl"
    path.write_text("\r\n\n".join(map(json.dumps, rows)) + end, encoding="utf-8")
    found = refused(lambda: list(read_rows(path, options_required=True)))
    right = [is_right(row) for row in rows]
    if all(right):
        assert found == [(row["input"], row["output"], row["options"]) for row in rows]
    else:
        assert found is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with a good file of each kind that is read."""
    folder = tmp_path_factory.mktemp("whole")
    rows = [{**GOOD, "input": f"w{number}"} for number in range(6)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = benchmark_files(["t"], ["t"], [SEED])
    for file in files:
        path = folder / "raw" / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines, encoding="utf-8")
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    pool = [{**row, "seed": str(SEED), "split": "train"} for row in rows]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    (folder / "corpus.jsonl").write_text('{"text": "w1 w2"}\n' * 9, encoding="utf-8")
    (folder / "spec.json").write_text('{"a": {"b": [1, 2.5, null]}}', encoding="utf-8")
    spec = TasksSpec(train_tasks=["t"], test_tasks=["t"], seeds=[SEED])
    import_tasks(spec, folder / "raw", folder / "tasks")
    episodes = TrainingEpisodesSpec(
        tasks=["t"],
        shots=2,
        queries_per_episode=1,
        episodes=4,
        seed=0,
        task_sampling="uniform",
    )
    write_training_episodes(episodes, folder / "tasks", folder / "train.parquet")
    return folder


def read_pool(path: Path) -> dict[str, bytes]:
    spec = PoolSpec(tasks=["t"], seeds=[SEED], rows=32, missing_tasks="error")
    write_pools(spec, [path], path.parent / "pool")
    return {file.name: file.read_bytes() for file in (path.parent / "pool").rglob("*.jsonl")}


READERS = {
    "rows.jsonl": lambda path: list(read_rows(path, options_required=True)),
    "pool.jsonl": read_pool,
    "corpus.jsonl": lambda path: list(read_documents([path])),
    "spec.json": read_json,
    "tasks/t.parquet": lambda path: load_rows(path.parent, "t").rows("test", SEED),
    "train.parquet": lambda path: read_columns(
        path, {"task": TEXT, "demonstrations": [NUMBER]}, "episodes"
    ).to_pylist(),
}


@fuzzed(60)
@given(
    name=st.sampled_from(sorted(READERS)),
    damage=st.sampled_from(UNREADABLE),
    seed=st.integers(0, 2**32),
)
def test_what_is_no_such_file_is_one_line(
    whole: Path, tmp_path_factory, name: str, damage: Callable, seed: int
) -> None:
    path = copied(whole, tmp_path_factory, name)
    damage(path, random.Random(seed))
    found = refused(lambda: READERS[name](path))
    # Of a file of lines that was cut between two of them, those that are left are all there is;
    # no text makes no document.
    lines = damage.__name__ in ("cut", "empty") and name.endswith(".jsonl")
    assert found is None or lines


@fuzzed(60)
@given(name=st.sampled_from(sorted(READERS)), seed=st.integers(0, 2**32))
def test_damage_to_parquet_changes_nothing_or_is_one_line(
    whole: Path, tmp_path_factory, name: str, seed: int
) -> None:
    path = copied(whole, tmp_path_factory, name)
    before = READERS[name](path)
    flip_anywhere(path, random.Random(seed))
    found = refused(lambda: READERS[name](path))
    if name.endswith(".parquet") and found is not None:
        assert found == before


def copied(whole: Path, tmp_path_factory, name: str) -> Path:
    path = tmp_path_factory.mktemp("damaged") / Path(name).name
    path.write_bytes((whole / name).read_bytes())
    return path


KINDS = {"text": TEXT, "number": NUMBER, "real": REAL, "list": [NUMBER]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"text": None}, "lack the columns text"),
        ({"text": [1, 2]}, "have no text in column text"),
        ({"text": ["a", None]}, "column text has empty cells"),
        ({"text": [b"a", b"\xff"]}, "have no text in column text"),
        ({"number": [1.0, 2.0]}, "have no whole number in column number"),
        ({"number": [None, 2]}, "column number has empty cells"),
        ({"real": ["1", "2"]}, "have no number in column real"),
        ({"list": [1, 2]}, "have no list of whole numbers in column list"),
        ({"list": [[1], None]}, "column list has empty cells"),
        ({"list": [[1], [None]]}, "column list has lists with empty items"),
        ({"list": [["a"], []]}, "have no list of whole numbers in column list"),
    ],
)
def test_columns_are_what_they_should_be(tmp_path: Path, change: dict, told: str) -> None:
    good = {"text": ["a", "b"], "number": [1, 2], "real": [1.0, 2.0], "list": [[1], []]}
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table(good), path)
    assert read_columns(path, KINDS, "things").to_pydict() == good
    bad = {key: value for key, value in {**good, **change}.items() if value is not None}
    pyarrow.parquet.write_table(pyarrow.table(bad), path)
    with pytest.raises(UserError, match=rf"x\.parquet: .*{told}"):
        read_columns(path, KINDS, "things")


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    texts = pyarrow.array([b"a", b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="column text is damaged"):
        read_columns(tmp_path / "x.parquet", {"text": TEXT}, "things")


@pytest.mark.parametrize("number", [-1, 6, 10**6])
@pytest.mark.parametrize("column", ["demonstrations", "queries"])
def test_training_episodes_name_rows_that_are_there(
    whole: Path, tmp_path: Path, column: str, number: int
) -> None:
    table = pyarrow.parquet.read_table(whole / "train.parquet")
    lists = table[column].to_pylist()
    lists[1][0] = number
    place = table.column_names.index(column)
    values = pyarrow.array(lists, table[column].type)
    pyarrow.parquet.write_table(table.set_column(place, column, values), tmp_path / "e.parquet")
    with pytest.raises(
        UserError, match=rf"column {column} of task t names row {number}, and there"
    ):
        EpisodeExamples(tmp_path / "e.parquet", whole / "tasks", None, {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"row": 6}, "column row names row 6, and there are 6"),
        ({"row": -1}, "column row names row -1"),
        ({"row": 0}, "column row names a row twice"),
        ({"demonstrations": [0, 7]}, "column demonstrations names row 7, and there are 6"),
        ({"selection": "nearest"}, "column selection has other names"),
        ({"task": "absent"}, "no rows of t"),
    ],
)
def test_evaluation_episodes_name_rows_that_are_there(
    whole: Path, tmp_path: Path, change: dict, told: str
) -> None:
    rows = [
        {"task": "t", "seed": SEED, "row": row, "demonstrations": [1, 2], "selection": "train"}
        for row in range(2)
    ]
    rows[1] |= change
    if change.get("task"):
        rows = rows[1:]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "e.parquet")
    with pytest.raises(UserError, match=told):
        read_items(tmp_path / "e.parquet", whole / "tasks", "test", None, 10, ["t"])


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    line = json.dumps(GOOD).replace('"input": ', '"input": "other", "input": ', 1)
    (tmp_path / "t.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"t\.jsonl, line 1: .*a key twice"):
        list(read_rows(tmp_path / "t.jsonl", options_required=True))


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / "t.jsonl").chmod(0)
    with pytest.raises(UserError, match="cannot be read .Permission denied"):
        list(read_rows(tmp_path / "t.jsonl", options_required=True))
