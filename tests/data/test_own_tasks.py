"""Tables of one's own become tasks; whatever is wrong with a row is one line with its place."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest

from mend.configuration.specs.own_tasks import OwnTaskRows, OwnTasksSpec
from mend.configuration.specs.tasks import TasksSpec
from mend.data.layout import read_rows
from mend.data.own_tasks import OwnRow, read_own_task, write_own_tasks
from mend.data.tasks import import_tasks, load_rows
from mend.errors import UserError
from mend.provenance import changed_inputs

WORDS = [f"word{number}" for number in range(60)]


def spec(task: dict, train: bool = False, test: bool = True, **changes) -> OwnTasksSpec:
    """Return the specification of one task, called mine."""
    return OwnTasksSpec(
        **{
            "tasks": {"mine": OwnTaskRows(**task)},
            "train_tasks": ["mine"] * train,
            "test_tasks": ["mine"] * test,
            "seeds": [13, 21],
            "shots": 4,
            "train_rows": 5,
            **changes,
        }
    )


def read(task: dict, train: bool = False, test: bool = True, **changes) -> dict[str, list[OwnRow]]:
    return read_own_task(spec(task, train, test, **changes), "mine")


def write_csv(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def write_json(path: Path, *rows: dict) -> str:
    return write_csv(path, *map(json.dumps, rows))


@pytest.fixture
def table(tmp_path) -> str:
    """Return a CSV of 60 rows with the columns text and label, good or bad."""
    lines = [f"{word},{('good', 'bad')[i % 2]}" for i, word in enumerate(WORDS)]
    return write_csv(tmp_path / "table.csv", "text,label", *lines)


PLAIN = {"input": "{text}", "output": "{label}"}


def test_one_file_is_split_by_the_seed_into_sides_that_share_no_input(table) -> None:
    task = {"rows": table, **PLAIN}
    sides = read(task)
    assert {side: len(rows) for side, rows in sides.items()} == {"train": 24, "dev": 12, "test": 24}
    inputs = [row.input for rows in sides.values() for row in rows]
    assert sorted(inputs) == sorted(WORDS)
    assert read(task) == sides
    assert read({**task, "seed": 1})["test"] != sides["test"]
    shares = read({**task, "shares": {"test": 0.5, "dev": 0.1}})
    assert {side: len(rows) for side, rows in shares.items()} == {
        "train": 24,
        "dev": 6,
        "test": 30,
    }
    assert all(row.options == ["bad", "good"] for rows in sides.values() for row in rows)


def test_rows_with_one_input_stay_on_one_side(tmp_path) -> None:
    rows = [f"{word},{label}" for word in WORDS[:20] for label in ("a", "b")]
    sides = read({"rows": write_csv(tmp_path / "t.csv", "text,label", *rows), **PLAIN})
    found = [{row.input for row in rows} for rows in sides.values()]
    assert sum(map(len, found)) == 20
    assert sum(len(rows) for rows in sides.values()) == 40


def test_a_task_that_is_only_trained_on_keeps_all_its_rows(table) -> None:
    sides = read({"rows": table, **PLAIN}, train=True, test=False)
    assert {side: len(rows) for side, rows in sides.items()} == {"train": 60, "dev": 0, "test": 0}


def test_templates_labels_and_options_of_each_kind(tmp_path) -> None:
    rows = [
        {"a": f"{word}, {{x}}", "b": {"c": [word, "z"]}, "one": "yes", "two": "no", "y": i % 2}
        for i, word in enumerate(WORDS)
    ]
    rows = [{**row, "list": ["left", "right", row["a"]], "ok": bool(row["y"])} for row in rows]
    file = write_json(tmp_path / "t.jsonl", *rows)

    def first(**task) -> tuple:
        row = read({"rows": file, "input": "{a}", **task}, train=True, test=False)["train"][1]
        return row[1:]

    x = "word1, {x}"
    assert first(input="{{{a}}} Is {b.c.0}?", output="{one}", options=["{one}", "{two}"]) == (
        "{word1, {x}} Is word1?",
        "yes",
        ["yes", "no"],
    )
    assert first(output="{y}", labels={0: "no", 1: "yes"}) == (x, "yes", ["no", "yes"])
    assert first(output="{y}", labels={0: "{one}", 1: "{two}"}) == (x, "no", ["yes", "no"])
    assert first(output="{ok}", labels={True: "yes", False: "no"}) == (x, "yes", ["yes", "no"])
    assert first(output="{y}", options="{list}", labels="option-number") == (
        x,
        "right",
        ["left", "right", x],
    )
    assert first(output="{y}", options=["1", "0"]) == (x, "1", ["1", "0"])
    assert first(output="{a}", type="free-form") == (x, x, [])


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ({}, "classification"),
        ({"labels": {0: "no", 1: "yes"}}, "classification"),
        ({"labels": {0: "{one}", 1: "{two}"}}, "multi-choice"),
        ({"options": ["yes", "no"]}, "classification"),
        ({"options": ["{one}", "no"]}, "multi-choice"),
        ({"options": "{list}"}, "multi-choice"),
        ({"options": "{list}", "type": "classification"}, "classification"),
        ({"type": "free-form"}, "free-form"),
    ],
)
def test_the_type_of_a_task_follows_from_its_options(task, kind) -> None:
    assert OwnTaskRows(rows="t.csv", **PLAIN, **task).task_type == kind


def test_csv_json_lines_parquet_and_data_sets_give_the_same_rows(table, tmp_path) -> None:
    frame = pd.read_csv(table)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    saved = datasets.Dataset.from_pandas(frame)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"training": saved}).save_to_disk(tmp_path / "several")
    folder = tmp_path / "files"
    folder.mkdir()
    frame.to_csv(folder / "train.csv", index=False)
    sources = [
        {"rows": table},
        {"rows": str(tmp_path / "t.parquet")},
        {"rows": str(tmp_path / "t.jsonl")},
        {"dataset": str(tmp_path / "one"), "rows": "train"},
        {"dataset": str(tmp_path / "several"), "rows": "training"},
        {"dataset": str(folder), "rows": "train"},
    ]
    found = [
        {
            side: [row[1:] for row in rows]
            for side, rows in read({**source, **PLAIN}, test=True).items()
        }
        for source in sources
    ]
    assert all(other == found[0] for other in found[1:])


def test_a_data_set_gives_the_names_of_its_labels_and_leaves_out_what_is_held_out(
    tmp_path, caplog
) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )

    def table(words: list[str]) -> datasets.Dataset:
        content = {"text": words, "label": [i % 2 for i in range(len(words))]}
        return datasets.Dataset.from_dict(content, features=features)

    parts = {"train": table(WORDS[:30]), "validation": table(WORDS[28:40])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    rows = {"train": "train", "test": "validation"}
    sides = read({"dataset": str(tmp_path / "saved"), "rows": rows, **PLAIN})
    assert {row.output for row in sides["test"]} == {"no", "yes"}
    train = {row.input for side in ("train", "dev") for row in sides[side]}
    assert train == set(WORDS[:28])
    assert len(sides["dev"]) == 6  # a fifth of what is left
    assert "2 of 30 train rows have the input of a row that is held out" in caplog.text
    with pytest.raises(UserError, match="it has no split tests; it has train, validation"):
        read({"dataset": str(tmp_path / "saved"), "rows": {**rows, "test": "tests"}, **PLAIN})


def test_a_data_set_of_the_hub_is_loaded_by_name_and_revision_and_its_code_is_not_asked_for(
    monkeypatch,
) -> None:
    asked = []

    def load_dataset(*names, **options) -> datasets.Dataset:
        asked.append((names, options))
        return datasets.Dataset.from_dict({"text": WORDS, "label": ["good", "bad"] * 30})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = {"dataset": "owner/name", "dataset_config": "plain", "revision": "v1", "rows": "train"}
    assert len(read({**source, **PLAIN})["train"]) == 24
    assert asked == [(("owner/name", "plain"), {"split": "train", "revision": "v1"})]


def test_a_data_set_without_the_library_is_told(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="the Python package datasets is not installed"):
        read({"dataset": "owner/name", "rows": "train", **PLAIN})


def test_what_is_written_is_read_as_tasks_in_metaicls_layout(table, tmp_path) -> None:
    wanted = spec({"rows": table, **PLAIN}, train=True, pool=20)
    sides = read_own_task(wanted, "mine")
    write_own_tasks(wanted, tmp_path / "own")
    tasks = TasksSpec(train_tasks=["mine"], test_tasks=["mine"], seeds=[13, 21], pool=20)
    import_tasks(tasks, tmp_path, tmp_path / "tasks", own_folder=tmp_path / "own")
    rows = load_rows(tmp_path / "tasks", "mine")
    train = {row.input for row in sides["train"]}
    assert {row.input for row in rows.rows("meta_train")} == train
    by_seed = []
    for seed in (13, 21):
        shown = [row.input for row in rows.rows("train", seed)]
        by_seed.append(shown)
        assert len(shown) == 16
        assert set(shown) <= train
        assert len(rows.rows("dev", seed)) == 12
        assert [row.input for row in rows.rows("pool", seed)][:16] == shown
        assert len(rows.rows("pool", seed)) == 20
        assert [row[1:] for row in sides["test"]] == [tuple(r) for r in rows.rows("test", seed)]
    assert by_seed[0] != by_seed[1]
    written = tmp_path / "own/data/mine/mine_16_13_test.jsonl"
    assert len(list(read_rows(written, options_required=True))) == 24


def test_tasks_know_the_table_that_they_were_made_of_also_under_an_older_time(
    table, tmp_path
) -> None:
    write_own_tasks(spec({"rows": table, **PLAIN}), tmp_path / "own")
    tasks = TasksSpec(train_tasks=[], test_tasks=["mine"], seeds=[13, 21])
    import_tasks(tasks, tmp_path, tmp_path / "tasks", own_folder=tmp_path / "own")
    results = [tmp_path / "tasks/mine.parquet"]
    assert changed_inputs(results) == []
    other = Path(table).read_text().replace("word1,", "other,")
    write_csv(tmp_path / "other.csv", other)
    os.utime(tmp_path / "other.csv", (0, 0))
    os.replace(tmp_path / "other.csv", table)
    assert changed_inputs(results) == [table]


@pytest.mark.parametrize(
    ("lines", "task", "told"),
    [
        (["text,label", "a,x", "b"], {}, "line 3: it has 1 cells, and line 1 names 2 columns"),
        (["text,text", "a,x"], {}, "line 1: two columns have one name"),
        (["text,label", '"a,x'], {}, "line 2: not CSV"),
        (["text,label"], {}, "it has no rows"),
        (["text,label", "a,x"], {"input": "{txt}"}, r"line 2: there is no column txt .*text"),
        (["text,label", "a,x"], {"output": "{label.0}"}, "column label has no part label.0"),
        (["text,label", "a,x", " ,y"], {}, r"line 3: input is empty: nothing in text"),
        (["text,label", "a,x", "b,"], {}, r"line 3: output is empty: nothing in label"),
        (["text,label", '"a\nb",x', "c,"], {}, r"line 4: output is empty"),
        (
            ["text,label", "a,x", "b,z"],
            {"options": ["x", "y"]},
            r"line 3: output 'z' is not among the options x, y \(benchmark.own_tasks.mine\)",
        ),
        (["text,label", "a,0", "b,2"], {"labels": {0: "x", 1: "y"}}, "line 3: output '2' is not"),
        (
            ["text,label", "a,2"],
            {"options": ["x", "y"], "labels": "option-number"},
            "line 2: output '2' is not the number of an option, of 0 to 1",
        ),
        (["text,label", "a,x"], {"options": "{text}"}, "line 2: column text holds no list"),
        (["text,label", "a,x", "b,x"], {}, "fewer than two options"),
        (["text,label", "a,x", "b,y", "c,x"], {}, "it has 1 train rows, and 4 are needed"),
        (["text,label", *(f"{w},{w}" for w in [*WORDS, *map(str.upper, WORDS)])], {}, "free-form"),
    ],
)
def test_what_is_wrong_with_a_csv_is_one_line_with_its_place(tmp_path, lines, task, told) -> None:
    file = write_csv(tmp_path / "t.csv", *lines)
    with pytest.raises(UserError, match=told) as caught:
        read({"rows": file, **PLAIN, **task})
    assert "\n" not in str(caught.value)
    assert file in str(caught.value) or "benchmark.own_tasks.mine" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ('{"text": "a"', "line 1: not a row as JSON"),
        ("[1]", "line 1: not a row as JSON"),
        ('{"text": "a", "text": "b"}', "line 1: not a row as JSON .*a key twice"),
        ('{"text": "\\ud800", "label": "x"}', "line 1: column text holds half of a surrogate pair"),
        ('{"text": ["a"], "label": "x"}', r"line 1: column text is .* write \{text.PART\}"),
        ('{"text": null, "label": "x"}', "line 1: input is empty"),
    ],
)
def test_what_is_wrong_with_json_lines_is_one_line_with_its_place(tmp_path, row, told) -> None:
    with pytest.raises(UserError, match=told):
        read({"rows": write_csv(tmp_path / "t.jsonl", row), **PLAIN})


def test_damaged_files_and_sets_are_told(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(b"text,label\n\xff,x\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read({"rows": str(tmp_path / "t.csv"), **PLAIN})
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="t.parquet: cannot be read as Parquet"):
        read({"rows": str(tmp_path / "t.parquet"), **PLAIN})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="split train: cannot be loaded"):
        read({"dataset": str(tmp_path / "empty"), "rows": "train", **PLAIN})


def test_a_row_of_files_that_is_on_two_sides_is_an_error(table, tmp_path) -> None:
    test = write_csv(tmp_path / "test.csv", "text,label", "new,good", "word7,bad")
    with pytest.raises(UserError, match=r"table.csv, line 9: a train row with the input of .*3"):
        read({"rows": {"train": table, "test": test}, **PLAIN})


def test_a_meta_train_task_has_at_least_the_rows_of_an_episode(table) -> None:
    with pytest.raises(UserError, match="60 train rows, and 61 are needed"):
        read({"rows": table, **PLAIN}, train=True, test=False, train_rows=61)
