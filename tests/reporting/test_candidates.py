"""The file of all that was tried, from the records of what dev scores chose."""

import json
import re

import pandas as pd
import pytest
from helpers.reports import write_results

from mend.errors import UserError
from mend.reporting.candidates import read_candidates, tried, write_candidates
from mend.reporting.report import write_report

RUN = "finetune.learning_rate=0.001~0.01"


def write_choice(folder, partition, scores, seed=0, method="mend"):
    """The record of a choice between two learning rates, as `mend.evaluation.choice` writes it."""
    of_seed = f",training.seed={seed}" if seed else ""
    candidates = [
        {
            "variant": f"finetune.learning_rate={rate}{of_seed}",
            "settings": {"finetune.learning_rate": rate},
            "dev_score": score,
            "step": 20 * number,
            "steps": 60,
        }
        for number, (rate, score) in enumerate(zip((0.001, 0.01), scores, strict=True), start=1)
    ]
    best = scores.index(max(scores))
    record = {
        **{"llm": "small", "method": method, "stage": "finetune", "seed": seed},
        **{"variant": RUN + of_seed, "partition": partition},
        **{"chosen": candidates[best]["variant"], "candidates": candidates},
    }
    file = folder / f"{method}-{partition}-{seed}.json"
    file.write_text(json.dumps(record))
    return file


@pytest.fixture
def files(tmp_path):
    return [
        write_choice(tmp_path, "qa_to_qa", [50.0, 61.5]),
        write_choice(tmp_path, "hr_to_lr", [30.0, 20.0]),
        write_choice(tmp_path, "qa_to_qa", [70.0, 60.0], seed=1),
        write_choice(tmp_path, "qa_to_qa", [11.0, 12.0], method="hypertuning"),
    ]


def write(files, folder):
    write_candidates([*files, files[0]], folder / "candidates.csv", folder / "candidates.parquet")
    return read_candidates(folder / "candidates.parquet")


def test_each_candidate_is_a_row_with_its_dev_score_and_whether_it_was_chosen(tmp_path, files):
    table = write(files, tmp_path)
    columns = ["method", "partition", "training_seed", "settings", "dev_score", "step", "chosen"]
    low, high = "finetune.learning_rate=0.001", "finetune.learning_rate=0.01"
    assert table[columns].to_dict("split")["data"] == [
        ["mend", "qa_to_qa", 0, low, 50.0, 20, False],
        ["mend", "qa_to_qa", 0, high, 61.5, 40, True],
        ["mend", "hr_to_lr", 0, low, 30.0, 20, True],
        ["mend", "hr_to_lr", 0, high, 20.0, 40, False],
        ["mend", "qa_to_qa", 1, low, 70.0, 20, True],
        ["mend", "qa_to_qa", 1, high, 60.0, 40, False],
        ["hypertuning", "qa_to_qa", 0, low, 11.0, 20, False],
        ["hypertuning", "qa_to_qa", 0, high, 12.0, 40, True],
    ]
    assert table["candidate"].tolist()[4] == "finetune.learning_rate=0.001,training.seed=1"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "candidates.csv"), table)


def test_training_seeds_of_a_method_stand_together(tmp_path, files):
    mend, hypertuning = tried(write(files, tmp_path))
    assert (mend["method"], mend["run"], mend["seeds"]) == ("mend", RUN, [0, 1])
    assert mend["partitions"] == ["qa_to_qa", "hr_to_lr"]
    low, high = mend["rows"]
    scores = [[(one["dev_score"], one["chosen"]) for one in cell] for cell in low["cells"]]
    assert scores == [[(50.0, False), (70.0, True)], [(30.0, True)]]
    scores = [[(one["dev_score"], one["chosen"]) for one in cell] for cell in high["cells"]]
    assert scores == [[(61.5, True), (60.0, False)], [(20.0, False)]]
    assert hypertuning["seeds"] == [0]


def test_the_report_lists_what_was_tried(tmp_path, files):
    spec = write_results(tmp_path / "results")
    write_report(spec, tmp_path / "without.html")
    assert "What was tried" not in (tmp_path / "without.html").read_text(encoding="utf-8")
    write(files, tmp_path / "results")
    folder = tmp_path / "results/runs/small/chosen"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(files[0].read_text())
    other = spec.model_copy(update={"study_choices": {"mine": ["runs/small/chosen"]}})
    write_report(other, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<h2 id="tried">') : page.index('<h2 id="run">')]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', section)
    assert rows[0] == (
        "finetune.learning_rate=0.001",
        '<td><span>50.00</span> / <span class="best">70.00</span></td>'
        '<td><span class="best">30.00</span></td>',
    )
    assert "one number for each of the training seeds 0, 1" in section


@pytest.mark.parametrize(
    "changes",
    [{"candidates": None}, {"candidates": [{}]}, {"partition": None}, {"seed": None}],
)
def test_a_record_of_something_else_is_named(tmp_path, files, changes):
    record = json.loads(files[1].read_text())
    files[1].write_text(json.dumps(record | changes))
    with pytest.raises(UserError, match=re.escape(str(files[1]))):
        write(files, tmp_path)
    assert not (tmp_path / "candidates.csv").exists()
