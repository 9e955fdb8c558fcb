"""MetaICL's published layout: the names of its files, and a strict reader of their rows.

The layout (dataset `allenai/metaicl-data`) is `FOLDER/data/TASK/TASK_{K}_{SEED}_{SPLIT}.jsonl`
with rows `{"task", "input", "output", "options"}`. Meta-train rows come from
`TASK_16384_100_train`; a meta-test task has `TASK_16_{SEED}_{train,dev,test}` for each seed, and
where a pool of more rows is asked for, `TASK_{POOL}_{SEED}_train`. The folder's name is the task's
name (it may hold a colon); the row's own `task` is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mend.atomic_io import check_file
from mend.errors import UserError

META_TRAIN_SEED = 100
"""The seed in the name of MetaICL's meta-train files."""

EVALUATION_SPLITS = ("train", "dev", "test")

READER_RULES = 2
"""Counts up when `read_rows` refuses more or less than before, so that old stamps do not count."""


SHOWN_OPTIONS, SHOWN_LETTERS = 5, 60
"""How many options, and how many letters of a text, a message shows at most."""


class Row(NamedTuple):
    """One example. `options` is empty only in rows of free-form tasks."""

    input: str
    output: str
    options: list[str]


class BenchmarkFile(NamedTuple):
    """One JSONL file of the layout. `split` is meta_train, train, dev, test or pool."""

    task: str
    split: str
    seed: int
    name: str


def benchmark_files(
    train_tasks: Sequence[str],
    test_tasks: Sequence[str],
    seeds: Sequence[int],
    pool: int | None = None,
) -> list[BenchmarkFile]:
    """The files that meta-train and meta-test tasks need; `name` is relative to the folder.

    pool: the rows of the larger train files that demonstrations may come from; None for none.
    """
    files = []
    for task in dict.fromkeys([*train_tasks, *test_tasks]):
        folder = f"data/{task}/{task}"
        if task in train_tasks:
            name = f"{folder}_16384_{META_TRAIN_SEED}_train.jsonl"
            files.append(BenchmarkFile(task, "meta_train", META_TRAIN_SEED, name))
        if task in test_tasks:
            for seed in seeds:
                for split in EVALUATION_SPLITS:
                    name = f"{folder}_16_{seed}_{split}.jsonl"
                    files.append(BenchmarkFile(task, split, seed, name))
                if pool:
                    name = f"{folder}_{pool}_{seed}_train.jsonl"
                    files.append(BenchmarkFile(task, "pool", seed, name))
    return files


def source_split(selection: str) -> str:
    """The split whose rows the demonstrations of a selection are (`conditions.SELECTIONS`)."""
    return "train" if selection == "train" else "pool"


def read_rows(path: str | Path, options_required: bool) -> Iterator[Row]:
    """Stream the rows of one JSONL file; blank lines are passed over.

    Other keys of a row are ignored, and a repeated option is allowed: where the gold output is
    repeated, its first place counts.

    Raises:
        UserError: naming the file and line, if a line is not a JSON object with strings task, input
            and output; if options is not a list of at least two strings with the output among them
            (with `options_required` false it may also be empty or absent); or if there is no row.
    """
    check_file(path)
    empty = True
    number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.isspace():
                    continue
                empty = False
                try:
                    yield _read_row(line, options_required)
                except ValueError as error:
                    raise UserError(f"{path}, line {number}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}, line {number + 1}: cannot be read ({error})") from None
    if empty:
        raise UserError(f"{path}: it has no rows")


def json_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object; ValueError if it has a key twice, of which neither may be meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _read_row(line: bytes, options_required: bool) -> Row:
    """Parse one line; ValueError says what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=json_object)
        if b"\\ud" in line or b"\\uD" in line:
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if type(row) is not dict:
        raise ValueError(f"a JSON {type(row).__name__}, not an object with task, input, output")
    for key in ("task", "input", "output"):
        if type(row.get(key)) is not str:
            problem = "is not a string" if key in row else "is missing"
            raise ValueError(f"key {key!r} {problem}")
    options = row.get("options")
    if not options and (options is None or type(options) is list):
        if options_required:
            raise ValueError("'options' is missing or empty, and without options no row is scored")
        return Row(row["input"], row["output"], [])
    if type(options) is not list or not all(type(option) is str for option in options):
        raise ValueError("key 'options' is not a list of strings")
    if len(options) < 2:
        raise ValueError(f"'options' has one entry, {_short(options[0])}; at least two are needed")
    if row["output"] not in options:
        listed = ", ".join(map(_short, options[:SHOWN_OPTIONS]))
        more = f", ... {len(options):,} in all" if len(options) > SHOWN_OPTIONS else ""
        output = _short(row["output"])
        raise ValueError(f"output {output} is not among the options [{listed}{more}]")
    return Row(row["input"], row["output"], options)


def _short(text: str) -> str:
    """Quote a text for a message, which is no place for all of an essay."""
    return repr(text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS - 3]}...")
