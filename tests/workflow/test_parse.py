"""Reading the workflow: quick, without torch, and with one clear message for bad input."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec

import pyarrow.parquet
import pytest

from mend.configuration.choices import PARTITIONS
from mend.data.layout import benchmark_files

NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "pandas", "pyarrow", "datasets"):
            raise ImportError(f"the workflow imported {name}")
sys.meta_path.insert(0, Refuse())
"""


def test_a_dry_run_imports_nothing_heavy(workflow, tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)
    dry = workflow.snakemake("-n", PYTHONPATH=str(tmp_path))
    assert dry.code == 0, dry.text[-2000:]
    assert f"finetuning: pocket-gpt2 mend default {PARTITIONS[0]}" in dry.jobs
    (workflow.folder / "Snakefile.torch").write_text("import torch\n")
    broken = workflow.snakemake("-n", "-s", "Snakefile.torch", PYTHONPATH=str(tmp_path))
    assert "the workflow imported torch" in broken.text  # the guard works


def test_the_default_and_the_papers_scale_are_whole(workflow, tmp_path) -> None:
    dry = workflow.plain_snakemake("-n", "results/table2.csv")
    assert dry.code == 0, dry.text[-2000:]
    ours = ("class_to_class", "qa_to_qa", "hr_to_lr")
    assert {f"finetuning: pocket-gpt2 mend default {name}" for name in ours} <= dry.jobs
    (tmp_path / "sentence_transformers.py").touch()  # as if it were installed
    paper = ("-n", "--configfile", "config/paper.yaml")
    dry = workflow.plain_snakemake(*paper, PYTHONPATH=str(tmp_path))
    assert dry.code == 0, dry.text[-2000:]
    assert {f"finetuning: gpt2-xl mend default {name}" for name in PARTITIONS} <= dry.jobs
    assert not [job for job in dry.jobs if "pocket" in job]


@pytest.mark.skipif(
    find_spec("sentence_transformers") is not None, reason="sentence-transformers is installed"
)
def test_a_library_that_is_not_installed_is_told_before_any_job_that_needs_it(workflow) -> None:
    paper = ("--configfile", "config/paper.yaml")
    refused = workflow.plain_snakemake("results/paper/table3.csv", *paper)
    assert refused.code != 0
    assert "error: benchmark.dense_retrieval.kind: sentence-transformers is not" in refused.text
    assert "Traceback" not in refused.text
    assert not refused.jobs
    dry = workflow.plain_snakemake("-n", "results/paper/table2.csv", *paper)
    assert dry.code == 0, dry.text[-2000:]


def test_a_gguf_file_becomes_a_model_before_it_is_used(workflow, tmp_path) -> None:
    file = {"files": ["some_weights/a.gguf"], "sha256": "0" * 64}
    values = workflow.with_value("gguf_models", {"tiny": file})
    llm = values["llms"]["pocket-gpt2"]
    llm["path"] = llm["distiller"]["path"] = f"{values['results']}/gguf-models/tiny"
    refused = workflow.snakemake("-n", "results/table2.csv", values=values)
    assert "error: gguf_models.tiny.files: " in refused.text
    assert "Traceback" not in refused.text
    for name in ("some_weights/__init__.py", "some_weights/a.gguf", "gguf.py"):  # "installed"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dry = workflow.snakemake("-n", "results/table2.csv", values=values, PYTHONPATH=str(tmp_path))
    assert "turning a GGUF file into a model's folder: tiny" in dry.jobs, dry.text[-2000:]


def test_meta_train_rows_become_text_before_it_is_cut(workflow) -> None:
    values = workflow.with_value("benchmark/corpus", {"source": "meta-train", "window": 64})
    jobs = workflow.snakemake("-n", "results/data/chunks/pocket-gpt2.parquet", values=values).jobs
    assert "writing the inputs of meta-train rows as a corpus" in jobs
    assert "reading the tasks' rows" in jobs


def test_the_pocket_models_are_made_only_if_asked(workflow) -> None:
    assert not [job for job in workflow.snakemake("-n").jobs if "pretraining the pocket" in job]
    asked = workflow.snakemake("-n", "pocket_models")
    assert len([job for job in asked.jobs if "pretraining the pocket" in job]) == 1


def test_a_configfile_replaces_the_default_as_a_whole(workflow) -> None:
    values = copy.deepcopy(workflow.values)
    del values["pocket"]
    refused = workflow.snakemake("-n", values=values)
    assert refused.code != 0
    assert "pocket: missing" in refused.text


@pytest.fixture(scope="module")
def rows(workflow):
    """A folder in MetaICL's layout with a meta-train task, a meta-test task and their list."""
    folder = workflow.folder / "rows"
    for file in benchmark_files(["learn"], ["ask"], [13, 100]):
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"task": file.task, "input": "a word", "output": "yes", "options": ["yes", "no"]}
        path.write_text(f"{json.dumps(row)}\n" * 20)
    lines = [",".join(["task", "type", "options", *PARTITIONS])]
    for task, role in (("learn", "train"), ("ask", "test")):
        lines.append(",".join([task, "classification", "", *([role] * len(PARTITIONS))]))
    (workflow.folder / "tasks.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def local(workflow, rows):
    """The toy configuration over that folder."""
    values = copy.deepcopy(workflow.values)
    values["benchmark"].update(
        tasks={"source": "folder", "folder": "rows"},
        task_list="tasks.csv",
        corpus={"source": "folder", "files": ["data/*/*_16384_*"], "column": "input", "window": 64},
        pool=None,
    )
    return values


def refuse(workflow, values: dict, *words: str, arguments: tuple[str, ...] = ()) -> None:
    """Check that a real run (no dry run) ends before any job with one message."""
    result = workflow.snakemake("tables", *arguments, values=values)
    assert result.code != 0
    for word in words:
        assert word in result.text
    assert result.text.count("error: ") == 1
    assert "Traceback" not in result.text
    assert "Job stats" not in result.text
    assert not result.jobs


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("benchmark/test_rowz", 3, ["toy.yaml: benchmark.test_rowz", "did you mean test_rows"]),
        ("results", "~/out", ["toy.yaml: results", "~ stands for nothing"]),
        ("benchmark/shots", "many", ["toy.yaml: benchmark.shots", '"many"', "a whole number"]),
        ("methods/mend/length", 5000, ["toy.yaml", "methods.mend", "length (l) is 5000"]),
        (
            "protocol/longest_context",
            {"llm": 5000, "distiller": 10},
            ["toy.yaml", "protocol.longest_context.llm is 5000", "no room for a query"],
        ),
    ],
)
def test_a_bad_key_is_told_before_any_job(workflow, key, value, words) -> None:
    refuse(workflow, workflow.with_value(key, value), *words)


def test_what_config_gives_is_read_as_a_file_is(workflow) -> None:
    words = ("--config: benchmark.seeds[1]", '"x" is not a whole number')
    refuse(workflow, workflow.values, *words, arguments=("--config", "benchmark={seeds: [13, x]}"))
    given = (
        "--config",
        "benchmark={seeds: [13, 100], test_rows: null}",
        "pocket={wrong_answers: 0.3}",
    )
    spec = "results/data/benchmark.spec.json"
    made = workflow.snakemake(spec, *given)
    assert made.code == 0, made.text[-2000:]
    assert json.loads((workflow.folder / spec).read_text())["wrong_answers"] == 0.3


GOOD = {"task": "ask", "input": "a", "output": "yes", "options": ["yes", "no"]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["not JSON"]),
        (json.dumps({key: GOOD[key] for key in ("task", "input", "options")}), ["output"]),
        (json.dumps({**GOOD, "output": "maybe"}), ["maybe", "options"]),
        (json.dumps({**GOOD, "options": ["yes"]}), ["options"]),
    ],
)
def test_a_bad_row_is_told_by_file_and_line(workflow, rows, local, line, words) -> None:
    path = rows / "data/ask/ask_16_13_test.jsonl"
    text = path.read_text()
    path.write_text(text.replace("\n", f"\n{line}\n", 1))
    try:
        refuse(workflow, local, "ask_16_13_test.jsonl, line 2", *words)
    finally:
        path.write_text(text)


def test_a_missing_task_is_told_by_name(workflow, rows, local) -> None:
    hidden = rows / "data" / "hidden"
    (rows / "data" / "ask").rename(hidden)
    try:
        refuse(workflow, local, "ask", "rows", "benchmark.missing_tasks")
    finally:
        hidden.rename(rows / "data" / "ask")


def test_a_larger_pool_is_read_from_files_of_its_own(workflow, local, tmp_path) -> None:
    seeds = local["benchmark"]["seeds"]
    rows = [
        {**GOOD, "input": f"{split} {seed} {number}", "seed": str(seed), "split": split}
        for seed in seeds
        for split in ("train", "dev", "test")
        for number in range(30)
    ]
    (tmp_path / "all-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"source": "folder", "folder": str(tmp_path), "files": ["all-*.jsonl"]}
    local["benchmark"] |= {"pool": 30, "pool_files": files}
    local["results"] = "pooled"
    made = workflow.snakemake("pooled/data/tasks", values=local)
    assert made.code == 0, made.text[-2000:]
    table = pyarrow.parquet.read_table(
        workflow.folder / "pooled/data/tasks/ask.parquet"
    ).to_pylist()
    found = {(row["seed"], row["input"]) for row in table if row["split"] == "pool"}
    assert found == {(seed, f"train {seed} {number}") for seed in seeds for number in range(30)}


def test_good_rows_are_accepted(workflow, local) -> None:
    dry = workflow.snakemake("-n", values=local)
    assert dry.code == 0, dry.text[-2000:]
    assert "reading the tasks' rows" in dry.jobs
