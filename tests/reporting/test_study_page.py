"""The files of a study: the same numbers thrice, and a page that says what they mean."""

import json
import re
import subprocess
import sys

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from helpers.studies import predictions_of, study, study_spec

from mend.errors import UserError
from mend.reporting.studies import write_study
from mend.reporting.studies.numbers import compute_study
from mend.reporting.studies.section import study_section

CLAIMS = [
    {"text": "more <b>MEND</b>", "higher": {"run": "MEND"}, "lower": {"run": "HyperTuning"}},
    {
        "text": "more vectors",
        "higher": {"run": "MEND", "length": 4},
        "lower": {"run": "MEND", "length": 32},
        "margin": -2,
    },
]


@pytest.fixture
def write(tmp_path):
    """Write a study's files; its predictions lie in one file for each method."""

    def write_files(spec, folder="out", choices=()):
        predictions = predictions_of(spec, spec["partitions"])
        files = []
        for method, part in predictions.groupby("method"):
            columns = ["predicted_text", "gold_text", "predicted"]
            rows = [
                {
                    **row,
                    "options": ["yes", "no"],
                    "scores": [-1.0 - predicted, -1.5],
                }
                for row, predicted in zip(
                    part.drop(columns=columns).to_dict("records"), part["predicted"], strict=True
                )
            ]
            files.append(tmp_path / f"{method}.parquet")
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), files[-1])
        record = {"llm": "small", "method": "mend", "stage": "pretrain", "device": "<i>cpu</i>"}
        (tmp_path / "record.json").write_text(json.dumps(record))
        out = [
            tmp_path / folder / name for name in ("s.csv", "s.parquet", "s.html", "details.json")
        ]
        chosen = [tmp_path / f"chosen-{number}.json" for number in range(len(choices))]
        for path, choice in zip(chosen, choices, strict=True):
            path.write_text(json.dumps(choice))
        # A file stands once for each point that reads it.
        records = [tmp_path / "record.json"]
        write_study(study_spec(spec), [*files, *files], records, *out, choice_files=chosen)
        return out

    return write_files


def table_of(page, label):
    """Text of the rows of the table with this label."""
    part = page[page.index(f'aria-label="{label}"') :]
    rows = re.findall(r"<tr.*?</tr>", part[: part.index("</table>")], re.DOTALL)
    cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<.*?>|\s+", " ", cell).strip() for cell in row] for row in cells]


def test_the_files_agree(write):
    csv, parquet, html, details = write(study(claims=CLAIMS))
    table = pd.read_csv(csv)
    pd.testing.assert_frame_equal(table, pd.read_parquet(parquet))
    page = html.read_text()
    rows = table_of(page, "Number of vectors")
    assert rows[0][1] == "l, number of vectors"
    assert rows[1] == ["Run", "4", "16", "32"]
    assert rows[2] == ["small"]
    mend = table[(table["llm"] == "small") & (table["run"] == "MEND")]
    average = mend[mend["partition"] == "AVG"]
    assert [cell.split()[0] for cell in rows[5][1:]] == [f"{m:.2f}" for m in average["mean"]]
    each = table_of(page, "Each partition")
    assert each[0] == ["Run", "QA → QA", "HR → LR", "AVG"]
    assert ["MEND, l = 4", *(f"{m:.2f}" for m in mend["mean"][:3])] in [
        [row[0], *(cell.split()[0] for cell in row[1:])] for row in each
    ]
    differences = table_of(page, "Differences to MEND")
    assert [row[0] for row in differences[3:5]] == ["Vanilla ICL", "HyperTuning"]
    assert differences[4][1] == "−10.00 [−10.0, −10.0]"
    judged = json.loads(details.read_text())["claims"]
    assert [claim["verdict"] for claim in judged] == ["holds", "holds"] * 2
    shown = table_of(page, "Claims, small")
    assert shown[1][1:] == ["✓ holds", "at 3 of 3"]
    assert shown[2][:3] == ["l = 4", "✓ holds", "+10.00"]


def test_lists_of_a_claim_are_told_pair_by_pair(write):
    claims = [
        {
            "text": "best with 16",
            "higher": {"run": ["MEND", "HyperTuning"], "length": 16},
            "lower": {"run": ["MEND", "HyperTuning"], "length": [4, 32]},
        },
        {"text": "gains", "higher": {"length": 32}, "lower": {"length": [4, 16]}},
    ]
    rows = table_of(write(study(claims=claims))[2].read_text(), "Claims, small")
    assert [row[0] for row in rows[1:6]] == [
        *("best with 16", "MEND, l = 16 against l = 4"),
        *("HyperTuning, l = 16 against l = 32", "gains"),
        "Vanilla ICL, l = 32 against l = 4",
    ]


def test_what_is_read_is_told_where_the_study_is_about_it(write):
    page = write(study(context_share_of="MEND"))[2].read_text()
    rows = table_of(page, "Number of vectors")
    assert [cell.split("reads ")[1] for cell in rows[5][1:]] == [
        "4 (12 %)",
        "16 (50 %)",
        "32 (100 %)",
    ]
    assert "share of the longest context of MEND" in re.sub(r"\s+", " ", page)
    assert "reads" not in str(table_of(write(study())[2].read_text(), "Number of vectors"))


def test_what_contexts_cost_is_told_and_when_making_them_pays(write):
    rows = table_of(
        write(study(context_share_of="HyperTuning"))[2].read_text(), "What contexts cost"
    )
    assert rows[0] == ["Run", "Positions", "Kept", "To make, once", "To read, each query"] + [
        "Pays from query"
    ]
    lengths = (4, 16, 32)  # which Vanilla ICL has not
    names = [
        "Vanilla ICL",
        *(f"{run}, l = {n}" for run in ("HyperTuning", "MEND") for n in lengths),
    ]
    assert [row[0] for row in rows[1:]] == [
        f"{name}  {llm}" for llm in ("small", "large") for name in names
    ]
    assert rows[1][1:] == ["80", "644 bytes", "0", "905 FLOP", "never"]
    assert rows[2][1:] == ["4", "32 bytes", "0", "140 FLOP", "–"]
    assert rows[5][1:] == ["4", "32 bytes", "900 FLOP", "140 FLOP", "4"]
    page = write(study())[2].read_text()
    assert [row[:5] for row in table_of(page, "What contexts cost")] == [row[:5] for row in rows]
    assert page.index("What was run, and how") < page.index("What contexts cost")


def choice_of(partition, scores, **changes):
    """The record of a choice of lambda for MEND with length=4."""
    settings = [{"finetune.losses.distill": value} for value in (0.1, 1)]
    tried = [
        {"variant": f"v{i}", "settings": s, "dev_score": score, "step": 1000 * (i + 1), "steps": 9}
        for i, (s, score) in enumerate(zip(settings, scores, strict=True))
    ]
    chosen = max(tried, key=lambda one: one["dev_score"])["variant"]
    own = {"llm": "small", "method": "mend", "stage": "finetune", "variant": "length=4"}
    return {**own, "partition": partition, "chosen": chosen, "candidates": tried, **changes}


def test_every_candidates_dev_score_is_told(write):
    assert "dev score" not in write(study())[2].read_text()
    choices = [choice_of("qa_to_qa", (61.5, 40)), choice_of("hr_to_lr", (20, 30))]
    choices.append(choice_of("qa_to_qa", (1, 2), llm="large"))
    page = write(study(), choices=choices)[2].read_text()
    assert table_of(page, "Dev scores of MEND, l = 4, small") == [
        ["MEND, l = 4  small", "λ = 0.1", "λ = 1"],
        ["QA→QA", "61.50  step 1,000", "40.00  step 2,000"],
        ["HR→LR", "20.00  step 1,000", "30.00  step 2,000"],
    ]
    assert table_of(page, "Dev scores of MEND, l = 4, large")[1][1:] == [
        "1.00  step 1,000",
        "2.00  step 2,000",
    ]
    part = page[page.index('aria-label="Dev scores of MEND, l = 4, small"') :]
    best = re.findall(r'class="best">([\d.]+)<', part[: part.index("</table>")])
    assert best == ["61.50", "30.00"]


def test_each_training_seed_has_its_own_choice():
    spec = study(training_seeds=[0, 7])
    spec["runs"] = [{**run, "training_seed": seed} for run in spec["runs"] for seed in (0, 7)]
    found = compute_study(study_spec(spec), predictions_of(spec, spec["partitions"]))
    of_seed_7 = "length=4,training.seed=7"
    for run in spec["runs"]:
        if (run["variant"], run["training_seed"]) == ("length=4", 7):
            run["variant"] = of_seed_7
    choices = [choice_of("qa_to_qa", (5, 6)), choice_of("qa_to_qa", (8, 7), variant=of_seed_7)]
    details = {"claims": found.claims, "other_mean": found.other_mean}
    page = study_section(study_spec(spec), found.table, details, choices=choices)
    assert table_of(page, "Dev scores of MEND, l = 4, small")[1:] == [
        ["QA→QA, training seed 0", "5.00  step 1,000", "6.00  step 2,000"],
        ["QA→QA, training seed 7", "8.00  step 1,000", "7.00  step 2,000"],
    ]


def test_training_seeds_are_told(write):
    assert "training seed" not in write(study())[2].read_text()
    spec = study(training_seeds=[0, 7])
    spec["runs"] = [{**run, "training_seed": seed} for run in spec["runs"] for seed in (0, 7)]
    page = " ".join(write(spec)[2].read_text().split())
    assert "over 2 seeds of demonstrations and 2 training seeds" in page
    assert "bootstrap over tasks, seeds and training seeds" in page
    assert "Training seeds 0, 7: each trains every stage anew" in page
    assert "each distiller is trained once" not in page
    # A run that the training seed does not change is listed once.
    assert len(table_of(page, "What was run")) == 1 + len(study()["runs"])


def test_without_an_axis_columns_are_partitions(write):
    spec = study(axes=[{"name": "run", "values": ["Vanilla ICL", "MEND"]}], reference={})
    spec["runs"] = [
        {**run, "values": {"run": run["values"]["run"]}}
        for run in spec["runs"]
        if run["variant"] == "default" and run["values"] != {"run": "HyperTuning", "length": 16}
    ]
    spec["runs"] = list({(run["llm"], run["method"]): run for run in spec["runs"]}.values())
    page = write(spec)[2].read_text()
    assert table_of(page, "Number of vectors")[0] == ["Run", "QA → QA", "HR → LR", "AVG"]
    for absent in ("Differences to", "What it was to show", "paper’s", "Each partition"):
        assert absent not in page


def test_axes_between_join_the_rows(write):
    spec = study()
    spec["axes"] = [spec["axes"][0], spec["axes"][1], {"name": "pass", "values": ["one", "2"]}]
    spec["runs"] = [
        {**run, "values": {**run["values"], "pass": value}}
        for run in spec["runs"]
        for value in ("one", "2")
    ]
    spec["reference"] = {"pass": "one"}
    csv, _, html, _ = write(spec)
    rows = table_of(html.read_text(), "Number of vectors")
    assert table_of(html.read_text(), "Differences to pass: one")[1] == ["Run", "2"]
    assert rows[1] == ["Run", "one", "2"]
    assert rows[3][0] == "Vanilla ICL, l = 4"
    assert "small,MEND,4,2,AVG," in csv.read_text()


def test_numbers_of_an_axis_keep_their_digits(write):
    spec = study()
    steps = {4: 1e-5, 16: 3000, 32: 0.5}
    spec["axes"][1] = {"name": "rate", "values": list(steps.values())}
    for run in spec["runs"]:
        run["values"] = {"run": run["values"]["run"], "rate": steps[run["values"]["length"]]}
    lines = write(spec)[0].read_text()
    for text in ("small,MEND,1e-05,AVG", "small,MEND,3000,AVG", "small,MEND,0.5,AVG"):
        assert text in lines


def test_the_papers_numbers_stand_beside_ours(write):
    spec = study(paper="table4", partitions=["non_qa_to_qa", "qa_to_qa"])
    spec["axes"] = spec["axes"][:1]
    spec["llms"][0]["paper_llm"] = "gpt2-large"
    claim = {"text": "a", "higher": {"run": "MEND"}, "lower": {"run": "Vanilla ICL"}}
    spec["claims"] = [claim]
    spec["runs"] = [
        {**run, "values": {"run": run["values"]["run"]}}
        for run in spec["runs"]
        if run["values"]["length"] == 16
    ]
    page = write(spec)[2].read_text()
    rows = {row[0]: row for row in table_of(page, "Number of vectors")}
    assert "in grey, the paper’s gpt2-large" in page
    first = table_of(page, "Number of vectors")
    mend = next(row for row in first if row[0] == "MEND")
    assert mend[2].endswith("paper 46.92")
    assert mend[3].endswith("paper 45.61")  # the mean of these two; the paper's is of four
    assert "paper" not in rows["MEND"][1]  # of the second LLM, which the paper does not have
    assert table_of(page, "Claims, small")[1][-1] == "−0.20"


def test_what_comes_from_data_is_escaped_and_nothing_is_loaded(write):
    page = write(study(title="a <script>", claims=CLAIMS, skipped={"qa_to_qa": ["<img>"]}))[2]
    page = page.read_text()
    for text in ("a &lt;script&gt;", "more &lt;b&gt;", "&lt;i&gt;cpu", "&lt;img&gt;"):
        assert text in page
    for markup in ("<script", "<b>", "<i>", "<img", "http", "src="):
        assert markup not in page


def test_nothing_is_written_of_incomplete_predictions(write, tmp_path):
    spec = study(partitions=["qa_to_qa"])
    spec["seeds"] = [13, 21, 42]
    with pytest.raises(UserError, match="lack the seeds 42"):
        write(spec)
    assert not (tmp_path / "out").exists()


def test_files_are_the_same_bytes_again(write):
    first, second = write(study(claims=CLAIMS)), write(study(claims=CLAIMS), "again")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_nothing_here_imports_torch():
    code = (
        "import sys, mend.reporting.studies; "
        "print({'torch', 'transformers'} & set(sys.modules) or 'none')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "none"
