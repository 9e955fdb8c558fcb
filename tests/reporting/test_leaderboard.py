"""The leaderboard: which runs stand beside which, in what order, and what is said of each."""

from __future__ import annotations

import re

from helpers.reports import write_results
from helpers.studies import TASKS, predictions_of, study, study_spec, two_trainings

from mend.reporting.report import write_report
from mend.reporting.report.leaderboard import StudyResult, leaderboard
from mend.reporting.studies.numbers import compute_study


def result_of(spec, predictions=None, records=()) -> StudyResult:
    found = predictions_of(spec, spec["partitions"]) if predictions is None else predictions
    return StudyResult(study_spec(spec), compute_study(study_spec(spec), found).table, records)


def record_of(variant, method="mend", **changes):
    record = {"llm": "small", "method": method, "stage": "finetune", "variant": variant}
    return {**record, "partition": "qa_to_qa", "parameters_trained": 9, "commit": "c", **changes}


def test_runs_that_were_tested_on_the_same_rows_stand_together_the_best_first():
    result = result_of(study())
    groups = leaderboard([result])
    keys = [(group["compared"].llm, group["compared"].partitions) for group in groups]
    partitions = [("qa_to_qa", "hr_to_lr"), ("qa_to_qa",), ("hr_to_lr",)]
    assert keys == [(llm, found) for llm in ("small", "large") for found in partitions]
    for group in groups:
        means = [row["mean"] for row in group["rows"]]
        assert means == sorted(means, reverse=True)
        # ICL, which has no length, is one run.
        assert len(group["rows"]) == 1 + 3 + 3
    best = groups[1]["rows"][0]
    assert (best["method"], best["variant"], best["condition"]) == ("mend", "length=32", "shots=16")
    assert (best["context_length"], best["context_bytes"], best["making_flops"]) == (32, 256, 900)
    table = result.table
    own = table[(table["llm"] == "small") & (table["run"] == "MEND") & (table["length"] == 32)]
    assert best["mean"] == own.loc[own["partition"] == "qa_to_qa", "mean"].item()


def test_other_test_rows_are_another_table():
    one = study(partitions=["qa_to_qa"])
    other = study(partitions=["qa_to_qa"], test_tasks={"qa_to_qa": TASKS[1:]})
    groups = leaderboard([result_of(one), result_of(other)])
    assert [group["compared"].tasks for group in groups] == [
        tuple(sorted(tasks)) for _ in range(2) for tasks in (TASKS, TASKS[1:])
    ]


def test_a_run_of_several_studies_counts_once_with_the_most_training_seeds():
    single = study(partitions=["qa_to_qa"])
    several, predictions = two_trainings()
    for studies in ([single, several], [several, single]):
        found = [result_of(one, predictions if one is several else None) for one in studies]
        groups = leaderboard(found)
        assert len(groups) == 2
        for group in groups:
            assert len(group["rows"]) == 1 + 3 + 3
            assert {row["training_seeds"] for row in group["rows"]} == {2}


def test_what_trained_a_run_is_told_by_its_own_records():
    records = [
        record_of("length=4", commit="a"),
        record_of("length=4", stage="pretrain", partition=None, commit="b", parameters_trained=5),
        record_of("length=4", partition="hr_to_lr", commit="d"),
        record_of("default", commit="e"),
        record_of("length=4", method="hypertuning", commit="f"),
    ]
    groups = leaderboard([result_of(study(), records=records)])
    rows = {(row["method"], row["variant"]): row for row in groups[1]["rows"]}
    assert rows["mend", "length=4"]["commits"] == ["a", "b"]
    assert rows["mend", "length=4"]["parameters"] == (5, 9)
    assert rows["mend", "length=32"]["commits"] == []
    assert rows["mend", "length=32"]["parameters"] is None
    assert not rows["vanilla-icl", "default"]["trained"]
    both = {(row["method"], row["variant"]): row for row in groups[0]["rows"]}
    assert both["mend", "length=4"]["commits"] == ["a", "b", "d"]


def test_the_report_has_it_as_text(tmp_path):
    spec = write_results(tmp_path / "results")
    write_report(spec, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    part = page[page.index('<h2 id="leaderboard">') : page.index('<h2 id="run">')]
    rows = [
        re.sub(r"<.*?>", " ", row) for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", part)
    ]
    # Of table 2 and of a study, on one partition: MEND is in both.
    names = [row.split()[0] for row in rows]
    assert names == ["Vanilla", "MEND", "HyperTuning", "Zero-shot"]
    assert "3 GFLOP 500 MFLOP" in re.sub(r"\s+", " ", rows[1])
    assert "2.05 kB" in rows[1]
    assert "aaaa" in rows[1]
    assert "aaaa" not in rows[0]
    assert "&lt;script&gt;" in part
    assert "<script" not in part
    assert '<a href="#leaderboard">' in page
