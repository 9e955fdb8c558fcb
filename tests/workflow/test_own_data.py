"""Tables of one's own through the workflow: from rows to a study, before any job what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers.workflow import ROOT, Workflow, toy_workflow

from mend.evaluation.free_form import agreement

RUNS = "results/runs/pocket-gpt2"


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Workflow:
    """A copy of the workflow at a toy size, with the example's own tasks and study."""
    copy = toy_workflow(tmp_path_factory.mktemp("own"))
    example = yaml.safe_load((ROOT / "config/own-data.yaml").read_text())
    copy.values["protocol"] |= example["protocol"]
    copy.values["benchmark"] |= example["benchmark"]
    copy.values["studies"] |= example["studies"]
    llm = copy.values["llms"]["pocket-gpt2"]
    llm["path"] = llm["distiller"]["path"] = "mend/pocket/models/gpt2-tiny"
    return copy


@pytest.fixture(scope="module")
def finished(own) -> Workflow:
    """The same, after the study of the methods that train nothing."""
    own.values["studies"]["untrained"] = {
        **own.values["studies"]["own"],
        "methods": ["zero-shot", "vanilla-icl"],
    }
    done = own.snakemake("results/untrained.html")
    assert done.code == 0, done.text[-3000:]
    return own


def predictions(workflow: Workflow, method: str) -> pd.DataFrame:
    folder = workflow.folder / RUNS / method / "default/all/shots=16"
    return pd.read_parquet(folder / "predictions.parquet")


def test_own_rows_are_predicted_beside_those_of_the_benchmark(finished) -> None:
    for method in ("zero-shot", "vanilla-icl"):
        found = predictions(finished, method)
        assert {"tickets", "opposites"} < set(found["task"])
        assert (found.groupby("task").size() == 8).all()  # 4 rows of 2 seeds
        tickets = found[found["task"] == "tickets"]
        assert {tuple(options) for options in tickets["options"]} == {("bug", "praise", "question")}
        assert tickets["generated"].isna().all()
        lines = (ROOT / "examples/own-data/opposites.jsonl").read_text().splitlines()
        right = {json.loads(line)["opposite"] for line in lines}
        opposites = found[found["task"] == "opposites"]
        assert set(opposites["output"]) <= right
        assert opposites["generated"].notna().all()


def test_a_study_of_own_tasks_has_their_scores_in_per_cent(finished) -> None:
    table = pd.read_csv(finished.folder / "results/untrained.csv").set_index("run")
    for method, name in {"zero-shot": "Zero-shot", "vanilla-icl": "Vanilla ICL"}.items():
        found = predictions(finished, method)
        answers = found[found["task"] == "opposites"]
        matches = [agreement(row.generated, row.output).exact_match for row in answers.itertuples()]
        assert (table.loc[name, "partition"], table.loc[name, "tasks"]) == ("to_own", 2)
        assert 0 <= table.loc[name, "mean"] <= 100
        assert sum(matches) / len(matches) == answers["exact_match"].mean()
    page = Path(finished.folder / "results/untrained.html").read_text()
    assert "exact match of what is generated for opposites" in page


def test_training_on_a_partition_of_the_task_list_is_planned_and_nothing_is_made_twice(
    finished,
) -> None:
    dry = finished.snakemake("-n", "results/own.html")
    assert dry.code == 0, dry.text[-3000:]
    assert "finetuning: pocket-gpt2 mend default to_own" in dry.jobs
    assert "predicting: pocket-gpt2 mend default to_own shots=16" in dry.jobs
    assert not {job for job in dry.jobs if "own tasks" in job or "zero-shot" in job}


def test_a_row_that_is_wrong_ends_the_workflow_before_any_job(own) -> None:
    bad = own.folder / "bad.csv"
    bad.write_text((ROOT / "examples/own-data/tickets.csv").read_text() + "no kind,\n")
    values = own.with_value("benchmark/own_tasks/tickets/rows", "bad.csv")
    ended = own.snakemake("results/own.html", values=values)
    assert ended.code != 0
    assert not ended.jobs
    assert "error: bad.csv, line 50: output is empty: nothing in kind" in ended.text
