"""Table 1: tasks and lengths of each side, by hand."""

import json

import pandas as pd
import pytest
from helpers.models import READING, word_tokenizer
from helpers.rows import write_rows

from mend.configuration.specs.reporting import Table1Spec
from mend.configuration.specs.tasks import TasksSpec
from mend.data.tasks import import_tasks
from mend.errors import UserError
from mend.reporting.tables.table1 import ROWS, write_table1

SEEDS = [13, 21]


def row(input, output):
    return {"task": "t", "input": input, "output": output, "options": [output, "w60"]}


@pytest.fixture
def world(tmp_path):
    """Rows of three tasks; x of `long` is longer than longest_example allows."""
    for name, words in (("short", 3), ("other", 5), ("long", 30)):
        text = " ".join(f"w{i}" for i in range(words))
        folder = tmp_path / "data" / name
        write_rows(folder / f"{name}_16384_100_train.jsonl", *[row(text, "w1")] * (ROWS + 3))
        for place, seed in enumerate(SEEDS):
            # Dev and test rows are longer, so that reading them would show.
            for split, rest in (("train", " w2" * place), ("dev", " w9" * 9), ("test", " w9" * 9)):
                path = folder / f"{name}_16_{seed}_{split}.jsonl"
                write_rows(path, *[row(text + rest, "w1 w2")] * 4)
    names = ["short", "other", "long"]
    spec = TasksSpec(train_tasks=names, test_tasks=names, seeds=SEEDS)
    import_tasks(spec, tmp_path, tmp_path / "tasks")
    word_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


def specification(world, **changes):
    llm = {"name": "a <b>llm", "path": str(world / "model"), "local_files_only": True}
    spec = {
        "llms": [llm],
        "partitions": ["class_to_class", "non_class_to_class"],
        "tasks": {
            "class_to_class": {"train": ["short", "other"], "test": ["short"]},
            "non_class_to_class": {"train": ["long"], "test": ["short"]},
        },
        "seeds": SEEDS,
        "benchmark": "folder",
        "reading": READING.model_dump(),
        "command": "snakemake",
    }
    return {**spec, **changes}


def write(world, spec):
    out = [world / f"table1.{kind}" for kind in ("csv", "parquet", "html")]
    write_table1(Table1Spec(**spec), world / "tasks", *out)
    return out


def test_lengths_by_hand(world):
    csv, parquet, html = write(world, specification(world))
    table = pd.read_csv(csv)
    pd.testing.assert_frame_equal(table, pd.read_parquet(parquet))
    rows = table.drop(columns="llm").to_numpy().tolist()
    assert rows == [
        # 3 + 1 and 5 + 1 tokens; not more than ROWS rows of each task.
        ["meta-train", "Class", 2, 2 * ROWS, 5, 5],
        # Of 30 + 1, x and y and 2 are cut to 20.
        ["meta-train", "non-Class", 1, ROWS, 18, 31],
        # 3 + 2 and, for the second seed, 4 + 2; once, though two partitions have it.
        ["meta-test", "Class", 1, 8, 5.5, 5.5],
    ]
    page = html.read_text()
    assert "a &lt;b&gt;llm" in page
    assert "<b>" not in page
    assert ">56.21<" in page.replace("</td>", "<")
    assert "44.45 (?)" in page
    assert "not reliable" in page


def test_a_side_that_a_protocol_makes_different_has_its_own_row(world):
    spec = specification(world)
    spec["tasks"]["non_class_to_class"]["test"] = ["other"]
    table = pd.read_csv(write(world, spec)[0])
    assert table["setting"].tolist()[2:] == ["Class", "Class (non-Class→Class)"]


def test_what_cannot_be_read_is_named(world):
    spec = specification(world)
    spec["tasks"]["class_to_class"]["test"] = ["absent"]
    with pytest.raises(UserError, match=r"absent\.parquet"):
        write(world, spec)
    spec = json.loads(json.dumps(specification(world)))
    spec["llms"][0]["path"] = str(world / "nowhere")
    with pytest.raises(UserError, match="nowhere': its tokenizer"):
        write(world, spec)
    assert not (world / "table1.csv").exists()
