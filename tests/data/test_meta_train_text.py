"""Meta-train rows as text to pretrain on: nothing of a meta-test task is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest
from helpers.configurations import ROOT, default_values
from helpers.models import word_tokenizer

from mend.configuration.job_specs import specification
from mend.configuration.loading import Configuration, load_configuration
from mend.configuration.report_spec import report_specification
from mend.data.corpus import read_documents, write_chunks
from mend.data.layout import benchmark_files
from mend.data.meta_train_text import write_meta_train_text
from mend.data.tasks import import_tasks
from mend.errors import UserError

#: Roles in class_to_class and in hr_to_lr. `copied` has a text of `tested` among its own.
TASKS = {
    "trained": ("train", ""),
    "tested": ("test", ""),
    "crossed": ("train", "test"),
    "copied": ("", "train"),
    "other": ("", "test"),
}


def configuration(folder: Path, monkeypatch) -> Configuration:
    """Return the configuration of two partitions of tasks whose rows are in a folder."""
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    (folder / "here/mend").symlink_to(ROOT / "mend")
    values = default_values(folder)
    partitions = ["class_to_class", "hr_to_lr"]
    listed = (ROOT / "mend/data/metaicl_tasks.csv").read_text(encoding="utf-8").splitlines()[0]
    columns = listed.split(",")
    lines = [listed]
    for task, roles in TASKS.items():
        cells = dict(zip(partitions, roles, strict=True)) | {"task": task, "type": "classification"}
        lines.append(",".join(cells.get(column, "") for column in columns))
    (folder / "tasks.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    values["benchmark"] |= {
        "tasks": {"source": "folder", "folder": str(folder / "rows")},
        "task_list": str(folder / "tasks.csv"),
        "corpus": {"source": "meta-train", "window": 16},
        "partitions": partitions,
        "seeds": [13, 100],
    }
    values["studies"]["table2"] |= {"partitions": partitions}
    values.pop("pocket")
    return load_configuration(values)


def write_tasks(folder: Path) -> None:
    """Write the rows: `w1` to `w5` say whose each is, and the rest which."""
    for number, task in enumerate(TASKS, start=1):
        for file in benchmark_files([task], [task], [13, 100]):
            path = folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            begin = {"meta_train": 10, "train": 20, "dev": 30, "test": 40}[file.split]
            texts = [f"w{number} w{begin + row} w{number} w{begin}" for row in range(4)]
            if task == "copied" and file.split == "meta_train":
                texts += [f"w2 w{split + 1} w2 w{split}" for split in (20, 30, 40)]
            rows = [{"input": text, "output": "a", "options": ["a", "b"]} for text in texts]
            lines = (json.dumps({"task": task} | row) + "\n" for row in rows)
            path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def made(tmp_path: Path, monkeypatch) -> Configuration:
    """Return the configuration, whose corpus its job has made."""
    write_tasks(tmp_path / "rows")
    found = configuration(tmp_path, monkeypatch)
    import_tasks(specification(found, "data/tasks"), tmp_path / "rows", tmp_path / "tasks")
    folder = Path(found.corpus_files[0]).parent
    write_meta_train_text(specification(found, "data/corpus"), tmp_path / "tasks", folder)
    return found


def test_no_text_of_a_meta_test_row_reaches_the_chunks(made, tmp_path: Path) -> None:
    found = made
    folder = tmp_path / "tokenizer"
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder)
    spec = specification(found, "data/chunks/pocket-gpt2")
    spec = spec.model_copy(update={"llm": spec.llm.model_copy(update={"path": str(folder)})})
    spec = spec.model_copy(update={"pretraining_chunks": "fixed-windows", "window": 5})
    write_chunks(spec, found.corpus_files, tmp_path / "chunks.parquet")
    ids = pyarrow.parquet.read_table(tmp_path / "chunks.parquet")["input_ids"].to_pylist()
    texts = [tokenizer.decode(row[:4]) for row in ids]
    own = {f"w{number} w{10 + row} w{number} w10" for number in (1, 4) for row in range(4)}
    assert set(texts) == own
    rows = {row for path in (tmp_path / "rows").rglob("*_16_*.jsonl") for row in path.open()}
    assert len(rows) == 5 * 3 * 4
    assert not {json.loads(row)["input"] for row in rows} & set(texts)


def test_the_corpus_is_the_rest_in_the_order_of_the_tasks(made) -> None:
    found = made
    assert found.text_tasks == ["trained", "copied"]
    texts = list(read_documents(found.corpus_files))
    assert [text.split()[0] for text in texts] == ["w1"] * 4 + ["w4"] * 4
    assert "inputs of the meta-train rows of 2 tasks" in report_specification(found).corpus


def test_no_task_or_no_row_that_is_left_is_refused(made, tmp_path: Path, monkeypatch) -> None:
    found = made
    spec = specification(found, "data/corpus")
    spec = spec.model_copy(update={"train_tasks": ["tested"], "test_tasks": ["tested"]})
    path = tmp_path / "rows/data/tested/tested_16384_100_train.jsonl"
    path.write_text(path.with_name("tested_16_13_test.jsonl").read_text())
    tasks = specification(found, "data/tasks").model_copy(update={"train_tasks": ["tested"]})
    import_tasks(tasks, tmp_path / "rows", tmp_path / "same")
    with pytest.raises(UserError, match="no meta-train row has a text of its own"):
        write_meta_train_text(spec, tmp_path / "same", tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    monkeypatch.setitem(TASKS, "trained", ("train", "test"))
    monkeypatch.setitem(TASKS, "copied", ("test", "train"))
    write_tasks(tmp_path / "again/rows")
    with pytest.raises(UserError, match=r"benchmark\.corpus\.source: every meta-train task is in"):
        configuration(tmp_path / "again", monkeypatch)
