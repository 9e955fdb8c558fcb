"""The whole workflow at a toy size, and what runs again when something changes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml

ROOT = Path(__file__).parents[2]

LLM, PARTITION = "pocket-gpt2", "class_to_class"
TABLE_5 = ("settings: table5", "table 5: results/table5.html")
METHODS = ("zero-shot", "prompt-tuning", "vanilla-icl", "hypertuning", "mend")


@pytest.fixture(scope="module")
def finished(workflow):
    """The workflow after its first run."""
    first = workflow.snakemake("tables")
    assert first.code == 0, first.text[-3000:]
    workflow.first = first
    return workflow


def test_table_2_has_every_method_and_partition(finished) -> None:
    results = finished.folder / "results"
    with open(results / "table2.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {(row["method"], row["partition"]) for row in rows if row["llm"] == LLM}
    assert {(m, p) for m in METHODS for p in (PARTITION, "AVG")} <= found
    assert all(row["seeds"] == "2" for row in rows)
    assert pyarrow.parquet.read_table(results / "table2.parquet").num_rows == len(rows)
    assert "<table" in (results / "table2.html").read_text(encoding="utf-8")


def test_predictions_keep_every_options_score(finished) -> None:
    for method in METHODS:
        part = "all" if method in ("zero-shot", "vanilla-icl") else PARTITION
        path = f"results/runs/{LLM}/{method}/default/{part}/shots=16/predictions.parquet"
        for row in pyarrow.parquet.read_table(finished.folder / path).to_pylist():
            assert len(row["scores"]) == len(row["options"]) > row["gold"] >= 0


def test_each_run_keeps_its_settings_its_log_and_its_costs(finished) -> None:
    run = f"runs/{LLM}/mend/default"
    results = finished.folder / "results"
    spec = json.loads((results / run / PARTITION / "finetune.spec.json").read_text())
    assert spec["training"]["losses"] == {"pred": 1.0, "distill": 1.0, "clm": 0.0, "choice": 0.0}
    assert "finetune" in (results / "logs" / run / PARTITION / "finetune.log").read_text()
    costs = (results / "benchmarks" / run / "pretrain.jsonl").read_text()
    assert json.loads(costs.splitlines()[-1])["s"] > 0


def test_one_page_has_everything(finished) -> None:
    made = finished.snakemake("report")
    assert made.code == 0, made.text[-3000:]
    page = (finished.folder / "results" / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in ("claims", "table1", "table2", "table5", "run"))
    # Snakemake's own report has the same results, each with its caption.
    shown = finished.snakemake("report", "--report", "snakemake.html")
    assert shown.code == 0, shown.text[-3000:]
    page = (finished.folder / "snakemake.html").read_text(encoding="utf-8")
    assert '"Tables": ' in page
    assert "Every result on one page" in page


def test_a_person_sees_each_job_and_its_progress(finished) -> None:
    assert f"pretraining: {LLM} mend default" in finished.first.jobs
    assert f"finetune {LLM} mend: 4 steps" in finished.first.text


def test_a_second_call_has_nothing_to_do(finished) -> None:
    second = finished.snakemake("tables")
    assert second.code == 0
    assert "Nothing to be done" in second.text
    assert not second.jobs


def test_another_lambda_reruns_only_what_depends_on_it(finished) -> None:
    values = finished.with_value("methods/mend/finetune/losses/distill", 0.5)
    assert finished.snakemake("-n", "tables", values=values).jobs == {
        f"settings: runs/{LLM}/mend/default/{PARTITION}/finetune",
        f"finetuning: {LLM} mend default {PARTITION}",
        f"predicting: {LLM} mend default {PARTITION} shots=16",
        "study: results/table2.html",
        *TABLE_5,
    }


def test_fewer_test_rows_train_nothing_again(finished) -> None:
    jobs = finished.snakemake(
        "-n", "tables", values=finished.with_value("benchmark/test_rows", 3)
    ).jobs
    assert "choosing the demonstrations of test rows: shots=16" in jobs
    assert sum(job.startswith("predicting") for job in jobs) == len(METHODS)
    assert not [job for job in jobs if "training" in job or "tuning: " in job]


@pytest.mark.parametrize(
    ("module", "old", "new", "rerun"),
    [
        ("training/loop.py", "import torch\n", "import torch  # for tensors\n", set()),
        ("training/loop.py", '"""Training', '"""The training', set()),
        (
            "evaluation/statistics.py",
            "DECIMALS = 4",
            "DECIMALS = 5",
            {
                "table 1: results/table1.html",
                "study: results/table2.html",
                "table 5: results/table5.html",
            },
        ),
        (
            "methods/prompt_tuning.py",
            "class PromptTuning",
            "X = 1\n\n\nclass PromptTuning",
            {
                f"finetuning: {LLM} prompt-tuning default {PARTITION}",
                f"predicting: {LLM} prompt-tuning default {PARTITION} shots=16",
                "study: results/table2.html",
            },
        ),
    ],
)
def test_code_reruns_what_depends_on_it_and_comments_nothing(
    finished, module, old, new, rerun
) -> None:
    path = finished.folder / "mend" / module
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        assert finished.snakemake("-n", "tables").jobs == rerun
    finally:
        path.write_text(text)


def test_the_new_method_of_the_guide_runs(finished) -> None:
    guide = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    guide = guide[guide.index("## A new method") :]
    code, settings = (
        re.search(rf"```{language}\n(.*?)```", guide, flags=re.DOTALL)[1]
        for language in ("python", "yaml")
    )
    (finished.folder / "mend/methods/my_method.py").write_text(code)
    values = finished.with_value(
        "methods/my-method", yaml.safe_load(settings)["methods"]["my-method"]
    )
    values["studies"]["table2"]["methods"] = [*METHODS, "my-method"]
    assert finished.snakemake("-n", "tables", values=values).jobs == {
        "settings: table2",
        f"settings: runs/{LLM}/my-method/default/{PARTITION}/finetune",
        f"settings: runs/{LLM}/my-method/default/{PARTITION}/shots=16/predict",
        f"finetuning: {LLM} my-method default {PARTITION}",
        f"predicting: {LLM} my-method default {PARTITION} shots=16",
        "study: results/table2.html",
        *TABLE_5,
    }
    made = f"results/runs/{LLM}/my-method/default/{PARTITION}/shots=16/predictions.parquet"
    result = finished.snakemake(made, values=values)
    assert result.code == 0, result.text[-3000:]
    assert pyarrow.parquet.read_table(finished.folder / made).num_rows


def test_the_same_seed_gives_the_same_table_byte_for_byte(finished) -> None:
    again = finished.snakemake("tables", values=finished.with_value("results", "again"))
    assert again.code == 0, again.text[-3000:]
    first, second = (finished.folder / name / "table2.csv" for name in ("results", "again"))
    assert first.read_bytes() == second.read_bytes()
