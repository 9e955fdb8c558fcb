"""Choosing on dev rows and training seeds, at a toy size: what is made of test rows, and when."""

from __future__ import annotations

import csv
import json

import pytest

from mend.atomic_io import read_json

RUNS = "results/runs/pocket-gpt2/prompt-tuning"
CHOSEN = "finetune.learning_rate=0.001~0.01"
SEEDS = ("", ",training.seed=1")


@pytest.fixture(scope="module")
def finished(workflow):
    """The workflow after table 2 of two methods, with candidates and two training seeds."""
    table2 = workflow.values["studies"]["table2"]
    table2 |= {"methods": ["zero-shot", "prompt-tuning"], "vary": {"training.seed": [0, 1]}}
    select = {"finetune.learning_rate": [0.001, 0.01]}
    workflow.values["methods"]["prompt-tuning"]["select"] = select
    first = workflow.snakemake("results/table2.html")
    assert first.code == 0, first.text[-3000:]
    workflow.first = first
    return workflow


def test_no_candidate_is_predicted_on_test_rows(finished) -> None:
    trained = {job for job in finished.first.jobs if job.startswith("finetuning")}
    assert trained == {
        f"finetuning: pocket-gpt2 prompt-tuning {variant} class_to_class"
        for variant in (
            "default",
            "training.seed=1",
            *(f"finetune.learning_rate=0.001{seed}" for seed in SEEDS),
        )
    }
    files = (finished.folder / "results/runs").rglob("predictions.parquet")
    found = {str(file.parent.relative_to(finished.folder)) for file in files}
    assert found == {
        "results/runs/pocket-gpt2/zero-shot/default/all/shots=16",
        *(f"{RUNS}/{CHOSEN}{seed}/class_to_class/shots=16" for seed in SEEDS),
    }


def test_the_chosen_weights_are_those_with_the_best_dev_score(finished) -> None:
    for seed in SEEDS:
        chosen = finished.folder / f"{RUNS}/{CHOSEN}{seed}/class_to_class/chosen"
        record = read_json(chosen / "record.json")
        scores = [one["dev_score"] for one in record["candidates"]]
        best = record["candidates"][scores.index(max(scores))]
        assert record["chosen"] == best["variant"]
        training = finished.folder / f"{RUNS}/{best['variant']}/class_to_class/finetune"
        assert read_json(training / "record.json")["best_score"] == max(scores)
        weights = [folder / "weights.safetensors" for folder in (chosen, training)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_table_has_the_training_seeds_and_the_page_every_dev_score(finished) -> None:
    with open(finished.folder / "results/table2.csv", encoding="utf-8") as file:
        assert {row["training_seeds"] for row in csv.DictReader(file)} == {"2"}
    page = (finished.folder / "results/table2.html").read_text(encoding="utf-8")
    part = page[page.index("Chosen on dev rows") :]
    for seed in SEEDS:
        chosen = finished.folder / f"{RUNS}/{CHOSEN}{seed}/class_to_class/chosen/record.json"
        for one in json.loads(chosen.read_text())["candidates"]:
            assert f"{one['dev_score']:.2f}" in part


def test_what_changes_test_rows_chooses_nothing_again(finished) -> None:
    second = finished.snakemake("results/table2.html")
    assert "Nothing to be done" in second.text
    fewer = finished.with_value("benchmark/test_rows", 3)
    jobs = finished.snakemake("-n", "results/table2.html", values=fewer).jobs
    assert not [job for job in jobs if "tuning: " in job or "choosing on" in job]
    assert sum(job.startswith("predicting") for job in jobs) == 3


def test_a_further_candidate_trains_itself_alone(finished) -> None:
    more = finished.with_value(
        "methods/prompt-tuning/select", {"finetune.learning_rate": [0.001, 0.01, 0.1]}
    )
    jobs = finished.snakemake("-n", "results/table2.html", values=more).jobs
    trained = {job for job in jobs if job.startswith("finetuning")}
    assert trained == {
        f"finetuning: pocket-gpt2 prompt-tuning finetune.learning_rate=0.1{seed} class_to_class"
        for seed in SEEDS
    }
    assert sum(job.startswith("choosing on dev rows") for job in jobs) == 2


def test_a_choice_without_dev_scores_is_told_before_any_job(finished) -> None:
    values = finished.with_value("training/finetune/early_stopping", None)
    refused = finished.snakemake("results/table2.html", values=values)
    assert refused.code != 0
    assert not refused.jobs
    assert "studies.table2: dev scores are to choose finetune.learning_rate" in refused.text
    assert "training.finetune.early_stopping is null" in refused.text
    assert "Traceback" not in refused.text


def test_all_that_was_tried_is_in_one_file(finished) -> None:
    done = finished.snakemake("results/candidates.csv")
    assert done.code == 0, done.text[-3000:]
    with open(finished.folder / "results/candidates.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["training_seed"], row["settings"]) for row in rows] == [
        (seed, f"finetune.learning_rate={rate}") for seed in "01" for rate in ("0.001", "0.01")
    ]
    assert [row["chosen"] for row in rows].count("True") == 2
