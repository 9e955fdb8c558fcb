"""Table 2, a study with the layout `matrix`, from prediction files to its page."""

import copy
import json
import os
import re
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from mend.atomic_io import write_parquet
from mend.configuration.display_names import method_display_name
from mend.configuration.specs.reporting import StudySpec
from mend.errors import UserError
from mend.evaluation.statistics import verdict
from mend.provenance import checksums
from mend.reporting.pages import marks
from mend.reporting.studies import write_study

# One right answer more for each method in this order.
METHODS = ["zero-shot", "prompt-tuning", "vanilla-icl", "hypertuning", "mend"]
TASKS = ["boats", "boats_again", "<script>alert(1)"]
SEEDS = [13, 21]
TEST_PARTITIONS = ["non_qa_to_qa", "qa_to_qa"]
ROWS = 10
LLM = "small & <b>quick</b>"
COLUMNS = ["llm", "method", "partition", "mean", "std", "ci_low", "ci_high"]
COLUMNS += ["tasks", "seeds", "training_seeds"]
COLUMNS += ["context_length", "context_bytes", "making_flops", "reading_flops"]
CLAIMS = [
    ("Vanilla ICL is above zero-shot", "Vanilla ICL", "Zero-shot", 0),
    ("MEND is within 2 points of vanilla ICL, or above it", "MEND", "Vanilla ICL", -2),
    ("MEND is above HyperTuning", "MEND", "HyperTuning", 0),
    ("MEND is above prompt tuning", "MEND", "Prompt tuning", 0),
    ("Vanilla ICL is above HyperTuning", "Vanilla ICL", "HyperTuning", 0),
]


def right_answers(method, task, seed):
    return METHODS.index(method) + TASKS.index(task) + SEEDS.index(seed)


def prediction_rows(method, partition, tasks=TASKS):
    return [
        {
            "llm": LLM,
            "method": method,
            "variant": "default",
            "condition": "shots=16",
            "partition": partition,
            "task": task,
            "seed": seed,
            "row": row,
            "context_length": 4,
            "context_bytes": 32,
            "making_flops": 0.0,
            "reading_flops": 1000.0,
            "gold": 0,
            "options": ["yes", "no"],
            "scores": [-1.0, -2.0] if row < right_answers(method, task, seed) else [-2.0, -1.0],
        }
        for task in tasks
        for seed in SEEDS
        for row in range(ROWS)
    ]


@pytest.fixture
def study(tmp_path):
    """A small study on disk: spec, prediction files, record files, and `write(folder)`."""
    predictions, records = [], []
    for method in METHODS:
        trained = method not in ("zero-shot", "vanilla-icl")
        for partition in TEST_PARTITIONS if trained else ["all"]:
            rows = prediction_rows(method, partition)
            path = tmp_path / f"{method}-{partition}.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            predictions.append(path)
            if trained:
                record = {
                    "llm": LLM,
                    "method": method,
                    "stage": "finetune",
                    "partition": partition,
                    "steps": 300,
                    "seconds": 20.5,
                    "device": "<i>cpu</i>",
                }
                path = tmp_path / f"{method}-{partition}.json"
                path.write_text(json.dumps(record))
                records.append(path)
    spec = {
        "name": "table2",
        "title": "Table 2",
        "layout": "matrix",
        "llms": [{"name": LLM, "paper_llm": "gpt2-large"}],
        "partitions": TEST_PARTITIONS,
        "test_tasks": dict.fromkeys(TEST_PARTITIONS, TASKS),
        "task_types": dict.fromkeys(TASKS, "multi-choice"),
        "seeds": SEEDS,
        "axes": [{"name": "run", "values": list(map(method_display_name, METHODS))}],
        "runs": [
            {
                "llm": LLM,
                "method": method,
                "variant": "default",
                "condition": "shots=16",
                "values": {"run": method_display_name(method)},
            }
            for method in METHODS
        ],
        "claims": [
            {"text": text, "higher": {"run": first}, "lower": {"run": second}, "margin": margin}
            for text, first, second, margin in CLAIMS
        ],
        "paper": "table2",
        "benchmark": "pocket",
        "skipped": {"qa_to_qa": ["<img src=x>"]},
        "command": "snakemake --cores 8 results/table2.csv",
    }

    def write(folder="out", spec=spec, predictions=predictions, records=records):
        names = ("table2.csv", "table2.parquet", "table2.html", "table2.details.json")
        csv, parquet, html, details = paths = [tmp_path / folder / name for name in names]
        write_study(StudySpec(**spec), predictions, records, *paths)
        return SimpleNamespace(csv=csv, parquet=parquet, html=html, details=details)

    return SimpleNamespace(spec=spec, predictions=predictions, records=records, write=write)


def test_the_three_files_hold_the_hand_computed_means(study):
    out = study.write()
    table = pd.read_csv(out.csv)
    means = table.set_index(["method", "partition"])["mean"]
    for place, method in enumerate(METHODS):
        # Of 10 rows, place + task (0, 1, 2) + seed (0, 1) are right: on average place + 1.5.
        assert means[method, "qa_to_qa"] == pytest.approx(10 * (place + 1.5))
        assert means[method, "AVG"] == pytest.approx(10 * (place + 1.5))
    assert means["mend - vanilla-icl", "non_qa_to_qa"] == 20
    assert table["seeds"].unique().tolist() == [2]
    pd.testing.assert_frame_equal(table, pd.read_parquet(out.parquet))
    assert list(table.columns) == COLUMNS
    costs = table.set_index("method")["context_bytes"]
    assert (costs["mend"] == 32).all()
    assert costs["mend - vanilla-icl"].isna().all()
    assert table["method"].unique().tolist() == [
        *METHODS,
        "vanilla-icl - zero-shot",
        "mend - vanilla-icl",
        "mend - hypertuning",
        "mend - prompt-tuning",
        "vanilla-icl - hypertuning",
    ]
    page = out.html.read_text()
    low, high = table.loc[table["method"] == "mend", ["ci_low", "ci_high"]].iloc[0]
    mend = table_of(page, "Table 2")["MEND"]
    assert mend[0].startswith(f"55.00 ±7.07 [{low:.1f}, {high:.1f}]")
    assert table_of(page, "Differences")["MEND − Vanilla ICL"][0].startswith("+20.00 [")


def test_csv_and_parquet_are_the_same_bytes_again(study):
    first = study.write("first")
    second = study.write("second", predictions=study.predictions[::-1], records=[])
    assert first.csv.read_bytes() == second.csv.read_bytes()
    assert first.parquet.read_bytes() == second.parquet.read_bytes()


def test_what_comes_from_data_is_escaped(study):
    page = study.write().html.read_text()
    assert "small &amp; &lt;b&gt;quick&lt;/b&gt;" in page
    assert "&lt;img src=x&gt;" in page
    assert "&lt;i&gt;cpu&lt;/i&gt;" in page
    for markup in ("<script", "<b>quick", "<img", "<i>cpu"):
        assert markup not in page
    study.spec["excluded"] = {"qa_to_qa": [TASKS[2]]}
    page = study.write().html.read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page


def test_the_page_loads_nothing_from_elsewhere(study):
    page = study.write().html.read_text()
    assert not re.findall(r"<[^>]*\s(?:src|href)=|url\(|@import", page)
    assert "http" not in page


def table_of(page, label):
    """Texts of a table's rows by their heads."""
    part = page[page.index(f'aria-label="{label}"') :]
    rows = re.findall(r"<tr.*?</tr>", part[: part.index("</table>")], re.DOTALL)
    cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
    texts = [[" ".join(re.sub(r"<.*?>", " ", cell).split()) for cell in row] for row in cells]
    return {head: rest for head, *rest in texts}


def test_best_and_second_are_marked_once_in_each_column(study):
    page = study.write().html.read_text()
    table = page[page.index('aria-label="Table 2"') :]
    table = table[: table.index("</table>")]
    rows = {
        re.search(r'<th scope="row">(.*?)</th>', row).group(1): row
        for row in table.split("<tr")
        if '<th scope="row">' in row
    }
    assert rows["MEND"].count('class="best"') == 3
    assert rows["HyperTuning"].count('class="second"') == 3
    assert table.count('class="best"') == table.count('class="second"') == 3
    shown = table_of(page, "Table 2")
    assert shown["MEND"][1].endswith("paper 46.92 ±0.49")  # QA→QA
    # The paper's average is over seven partitions; the mean of 45.81 and 45.81 stands instead.
    assert shown["Vanilla ICL"][2].endswith("paper 45.81")
    assert shown["Tasks"] == ["3", "3", "3"]


def test_marks_with_ties():
    assert marks([1, 3, 2]) == ["", "best", "second"]
    assert marks([3, 3, 2, 1]) == ["best", "best", "second", ""]
    assert marks([3, 2, 2]) == ["best", "second", "second"]
    assert marks([3.001, 3.004, 2]) == ["best", "best", "second"]  # equal as displayed
    assert marks([5, 5]) == ["best", "best"]


def test_verdicts():
    assert verdict(0.1, 3, 0) == "holds"
    assert verdict(-3, -0.1, 0) == "does not hold"
    assert verdict(-1, 3, 0) == "not clear"
    assert verdict(-1, 3, -2) == "holds"
    assert verdict(0, 0, 0) == "not clear"


def test_claims_are_judged_on_the_page(study):
    rows = table_of(study.write().html.read_text(), "Claims, small &amp; &lt;b&gt;quick&lt;/b&gt;")
    verdicts = {head.removesuffix(" (bar at −2.0)"): cells[0] for head, cells in rows.items()}
    assert {text: verdicts[text] for text, *_ in CLAIMS} == {
        "Vanilla ICL is above zero-shot": "✓ holds",
        "MEND is within 2 points of vanilla ICL, or above it": "✓ holds",
        "MEND is above HyperTuning": "✓ holds",
        "MEND is above prompt tuning": "✓ holds",
        "Vanilla ICL is above HyperTuning": "✗ does not hold",
    }
    assert rows["MEND is above HyperTuning"][-2:] == ["2 of 2", "+1.95"]


def test_both_task_means_are_shown_where_they_differ(study):
    page = study.write().html.read_text()
    # boats_again counts twice for the authors: (0 + 2 x 1 + 2) / 4 + 4 + 0.5 = 5.5 = the plain one.
    assert "The other mean over tasks" not in page
    study.spec["test_tasks"] = {**study.spec["test_tasks"], "qa_to_qa": TASKS[:2]}
    page = study.write().html.read_text()
    # MEND without the third task: (0 + 1) / 2 + 4.5 against (0 + 2 x 1) / 3 + 4.5.
    assert "50.00 / 51.67" in page


def test_predictions_of_another_condition_are_left_out(study, tmp_path):
    rows = [{**row, "condition": "shots=4"} for row in prediction_rows("mend", "qa_to_qa")]
    path = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with_others = study.write("others", predictions=[*study.predictions, path])
    assert with_others.csv.read_bytes() == study.write().csv.read_bytes()


@pytest.mark.parametrize("drop", ["seed", "row", "method"])
def test_incomplete_predictions_write_nothing(study, tmp_path, drop):
    kept = study.predictions
    table = pyarrow.parquet.read_table(kept[-1]).to_pandas()
    part = (table["task"] == "boats") & (table["seed"] == 21)
    if drop == "row":
        part &= table["row"] == 3
    if drop == "method":
        kept = kept[:-1]
    else:
        table = pyarrow.Table.from_pandas(table[~part], preserve_index=False)
        pyarrow.parquet.write_table(table, kept[-1])
    message = {
        "seed": "MEND .* qa_to_qa lack the seeds 21 of task boats",
        "row": "mend .* qa_to_qa .* has 9 rows of task boats, seed 21, .* have 10",
        "method": "MEND .* on qa_to_qa lack the tasks",
    }
    with pytest.raises(UserError, match=message[drop]):
        study.write(predictions=kept)
    assert not (tmp_path / "out").exists()


def test_a_partition_without_tasks_is_left_out_by_name(study):
    study.spec["test_tasks"] = {"non_qa_to_qa": TASKS, "qa_to_qa": []}
    out = study.write()
    assert set(pd.read_csv(out.csv)["partition"]) == {"non_qa_to_qa", "AVG"}
    assert "Left out: QA→QA" in out.html.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"llms": [{"name": LLM, "paper_llm": "gpt5"}]},
            "paper_llm: .* no gpt5",
        ),
        ({"test_tasks": dict.fromkeys(TEST_PARTITIONS, [])}, "none of the partitions"),
    ],
)
def test_a_wrong_specification_is_named(study, change, message):
    with pytest.raises(UserError, match=message):
        study.write(spec={**study.spec, **change})


def test_a_record_that_lacks_its_method_is_named(study, tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"llm": "small", "stage": "finetune"}')
    with pytest.raises(UserError, match=r"record\.json: .* lacks method"):
        study.write(records=[path])


def test_the_paper_line_is_absent_without_a_paper_llm(study):
    study.spec["llms"][0]["paper_llm"] = None
    page = study.write().html.read_text()
    assert "paper’s own number" not in page
    assert "46.92" not in page
    assert np.isfinite(pd.read_csv(study.write().csv)["mean"]).all()


def test_the_details_say_which_predictions_the_table_was_made_of(study, tmp_path):
    found = json.loads(study.write().details.read_text())["made_of"]
    files = [*study.predictions, *study.records]
    assert found == {f"../{path.name}": sha256(path.read_bytes()).hexdigest() for path in files}


def test_inputs_that_were_replaced_under_an_old_time_are_told(study, tmp_path, caplog):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("as they were")
    path = study.predictions[0]
    table = pyarrow.parquet.read_table(path)
    write_parquet(table, path, checksums([rows], path))
    assert "Replaced inputs" not in study.write().html.read_text()
    before = rows.stat()
    rows.write_text("others")
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))
    page = study.write().html.read_text()
    assert re.search(r"Replaced inputs.*rows\.jsonl: replaced by another .*`touch` it", page)
    assert "table2: " in caplog.text
    assert "rows.jsonl: replaced by another file" in caplog.text


def test_rows_that_were_not_evaluated_alike_are_labelled(study, tmp_path):
    alike = study.write()
    assert "condition" not in pd.read_csv(alike.csv)
    assert "Not evaluated alike" not in alike.html.read_text()
    spec = copy.deepcopy(study.spec)
    run = next(run for run in spec["runs"] if run["method"] == "vanilla-icl")
    place = next(i for i, p in enumerate(study.predictions) if p.name.startswith("vanilla-icl"))
    table = pyarrow.parquet.read_table(study.predictions[place])
    column = table.column_names.index("condition")
    four = pyarrow.array(["shots=4"] * len(table))
    other = tmp_path / "four.parquet"
    pyarrow.parquet.write_table(table.set_column(column, "condition", four), other)
    run["condition"] = "shots=4"
    predictions = [other if i == place else p for i, p in enumerate(study.predictions)]
    out = study.write("four", spec=spec, predictions=predictions)
    labels = pd.read_csv(out.csv).dropna(subset="condition").groupby("method")["condition"]
    assert labels.unique().str[0].to_dict() == {
        method: "shots=4" if method == "vanilla-icl" else "shots=16" for method in METHODS
    }
    page = out.html.read_text()
    assert re.search(r"Not evaluated alike:.*<code>shots=4</code> for Vanilla ICL", page)
