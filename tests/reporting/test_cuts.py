"""What was cut to fit, counted by task over predictions and training records."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mend.data.cuts import add_cuts, cut_sentences
from mend.reporting.cuts import cut_rows, prediction_cuts


def predictions(path: Path, llm: str = "gpt2", **columns: list) -> Path:
    same = {"llm": llm, "method": "mend", "variant": "default", "condition": "shots=4"}
    pd.DataFrame({**columns, **same, "partition": "all"}).to_parquet(path)
    return path


def counted(path: Path, **same: str) -> Path:
    return predictions(
        path,
        task=["dream", "dream", "sick", "dream"],
        query_cut=[True, False, False, True],
        demonstrations=[4, 4, 4, 4],
        demonstrations_cut=[1, 0, 0, 2],
        demonstrations_left_out=[0, 3, 0, 1],
        tied=[False, True, False, False],
        **same,
    )


def test_predictions_are_counted_by_run_and_task(tmp_path: Path) -> None:
    path = counted(tmp_path / "a.parquet")
    run = {"llm": "gpt2", "method": "mend", "variant": "default", "condition": "shots=4"}
    dream = {"queries": 3, "queries_cut": 2, "demonstrations": 12}
    dream |= {"demonstrations_cut": 3, "demonstrations_left_out": 4, "tied": 1}
    nothing = dict.fromkeys(
        ("queries_cut", "demonstrations_cut", "demonstrations_left_out", "tied"), 0
    )
    assert prediction_cuts([path, path]) == [
        {**run, "partition": "all", "task": "dream", **dream},
        {**run, "partition": "all", "task": "sick", "queries": 1, "demonstrations": 4, **nothing},
    ]
    old = predictions(tmp_path / "old.parquet", task=["dream"])
    assert prediction_cuts([old]) == []


def test_the_report_lists_each_task_of_which_anything_was_cut(tmp_path: Path) -> None:
    found = prediction_cuts([counted(tmp_path / "a.parquet")])
    other = prediction_cuts([counted(tmp_path / "b.parquet", llm="t5")])
    whole = dict.fromkeys(("queries_cut", "demonstrations_cut", "demonstrations_left_out"), 0)
    cuts = {
        "eli5": {"queries": 50, "answers_cut": 5, "demonstrations": 800, **whole},
        "sick": {"queries": 50, "answers_cut": 0, "demonstrations": 800, **whole},
    }
    records = [{"llm": "gpt2", "stage": "finetune", "cuts": cuts}] * 2
    records.append({"llm": "gpt2", "stage": "pretrain"})
    # A run that two studies show is counted once.
    rows = cut_rows([*found, *other, *found], records)
    dream = {
        "queries_cut": (2, 3),
        "demonstrations_cut": (3, 12),
        "demonstrations_left_out": (4, 12),
        "answers_cut": (0, 3),
        "tied": (1, 3),
    }
    eli5 = {
        "queries_cut": (0, 100),
        "demonstrations_cut": (0, 1600),
        "demonstrations_left_out": (0, 1600),
        "answers_cut": (10, 100),
        "tied": (0, 100),
    }
    assert rows == [
        {"llm": "gpt2", "use": "finetuning", "task": "eli5", **eli5},
        {"llm": "gpt2", "use": "test", "task": "dream", **dream},
        {"llm": "t5", "use": "test", "task": "dream", **dream},
    ]
    assert cut_rows([], [{"llm": "gpt2", "stage": "pretrain"}]) == []


def test_the_log_says_what_was_cut_of_which_task() -> None:
    total: dict = {}
    add_cuts(total, {"dream": {"queries": 2, "queries_cut": 1, "demonstrations": 32}})
    add_cuts(total, {"dream": {"queries": 1, "queries_cut": 1, "demonstrations_left_out": 3}})
    add_cuts(total, {"sick": {"queries": 1}})
    assert list(cut_sentences(total)) == [
        "dream: 2 of 3 queries cut, 3 of 32 demonstrations left out"
    ]
