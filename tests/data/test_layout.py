"""Reading rows of MetaICL's layout: what is refused, and with which message."""

from __future__ import annotations

import json

import pytest
from helpers.rows import GOOD, write_rows

from mend.data.layout import benchmark_files, read_rows
from mend.errors import UserError


def test_files_of_the_layout():
    files = benchmark_files(["a", "x:y"], ["x:y"], [13])
    assert [(file.split, file.seed, file.name) for file in files] == [
        ("meta_train", 100, "data/a/a_16384_100_train.jsonl"),
        ("meta_train", 100, "data/x:y/x:y_16384_100_train.jsonl"),
        ("train", 13, "data/x:y/x:y_16_13_train.jsonl"),
        ("dev", 13, "data/x:y/x:y_16_13_dev.jsonl"),
        ("test", 13, "data/x:y/x:y_16_13_test.jsonl"),
    ]


def test_larger_train_files_are_named_by_their_rows():
    files = benchmark_files(["a"], ["b"], [13, 21], pool=256)
    assert [
        (file.task, file.split, file.seed, file.name) for file in files if "256" in file.name
    ] == [
        ("b", "pool", 13, "data/b/b_256_13_train.jsonl"),
        ("b", "pool", 21, "data/b/b_256_21_train.jsonl"),
    ]
    assert [file for file in files if file.split != "pool"] == benchmark_files(
        ["a"], ["b"], [13, 21]
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["input"]', "a JSON list, not an object"),
        ("3", "a JSON int, not an object"),
        ({k: v for k, v in GOOD.items() if k != "task"}, "key 'task' is missing"),
        ({k: v for k, v in GOOD.items() if k != "input"}, "key 'input' is missing"),
        ({k: v for k, v in GOOD.items() if k != "output"}, "key 'output' is missing"),
        ({**GOOD, "input": None}, "key 'input' is not a string"),
        ({**GOOD, "output": 1}, "key 'output' is not a string"),
        ({**GOOD, "options": "yes"}, "'options' is not a list of strings"),
        ({**GOOD, "options": {}}, "'options' is not a list of strings"),
        ({**GOOD, "options": ["yes", 2]}, "'options' is not a list of strings"),
        ({**GOOD, "options": ["yes"]}, "'options' has one entry, 'yes'; at least two"),
        ({**GOOD, "output": "maybe"}, "output 'maybe' is not among the options ['yes', 'no']"),
        ({**GOOD, "output": "Yes"}, "output 'Yes' is not among the options"),
        (
            {**GOOD, "output": "x" * 900, "options": [f"option {n} " * 90 for n in range(1000)]},
            "...', ... 1,000 in all]",
        ),
        ({**GOOD, "options": []}, "'options' is missing or empty"),
        ({k: v for k, v in GOOD.items() if k != "options"}, "'options' is missing or empty"),
        ('{"task": "t", "input": "\\ud800", "output": "a", "options": ["a", "b"]}', "surrogate"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, message):
    path = write_rows(tmp_path / "t.jsonl", GOOD, "", line, GOOD)
    with pytest.raises(UserError) as raised:
        list(read_rows(path, options_required=True))
    assert str(raised.value).startswith(f"{path}, line 3: ")
    assert message in str(raised.value)
    assert len(str(raised.value)) < 700


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"input": "\xe9"}\n')
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        list(read_rows(path, options_required=True))


def test_what_a_reader_accepts(tmp_path):
    free = {k: v for k, v in GOOD.items() if k != "options"}
    twice = {**GOOD, "options": ["no", "yes", "yes"], "more": 1}
    odd = {**GOOD, "input": "a\u2028b \U0001f600"}
    path = write_rows(tmp_path / "t.jsonl", free, {**GOOD, "options": []}, twice, odd)
    rows = list(read_rows(path, options_required=False))
    assert [row.options for row in rows] == [[], [], ["no", "yes", "yes"], ["yes", "no"]]
    assert rows[3].input == "a\u2028b \U0001f600"


def test_an_empty_or_absent_file(tmp_path):
    path = write_rows(tmp_path / "t.jsonl")
    with pytest.raises(UserError, match="t.jsonl: it has no rows"):
        list(read_rows(path, options_required=True))
    with pytest.raises(UserError, match="no such file"):
        list(read_rows(tmp_path / "absent.jsonl", options_required=True))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_rows(tmp_path, options_required=True))
