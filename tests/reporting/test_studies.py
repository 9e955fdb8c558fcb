"""Studies from predictions: points, references, ranks, claims, and the paper's numbers."""

import numpy as np
import pandas as pd
import pytest
from helpers.studies import LLMS, TASKS, predictions_of, study, study_spec, two_trainings

from mend.errors import UserError
from mend.paper import paper_table
from mend.reporting.studies import numbers


def compute_study(spec, predictions):
    return numbers.compute_study(study_spec(spec), predictions).table


def judge_claims(spec):
    predictions = predictions_of(spec, spec["partitions"])
    return numbers.compute_study(study_spec(spec), predictions).claims


def row_of(table, **values):
    for key, value in values.items():
        table = table[table[key] == value]
    (row,) = table.to_dict("records")
    return row


def test_points_and_differences_by_hand():
    spec = study()
    table = compute_study(spec, predictions_of(spec, spec["partitions"]))
    assert list(table.columns) == [
        *("llm", "run", "length", "partition", "mean", "std", "ci_low", "ci_high"),
        *("tasks", "seeds", "training_seeds"),
        *("context_length", "context_bytes", "making_flops", "reading_flops"),
        *("difference", "difference_low", "difference_high"),
    ]
    assert len(table) == 2 * 3 * 3 * 3
    assert list(table["partition"][:3]) == ["qa_to_qa", "hr_to_lr", "AVG"]
    # Tasks and seeds add 1.5 on average; 20 rows.
    mend = row_of(table, llm="small", run="MEND", length=16, partition="qa_to_qa")
    assert mend["mean"] == pytest.approx(5 * (4 + 1.5 + 2))
    assert np.isnan(mend["difference"])
    assert (mend["tasks"], mend["seeds"]) == (3, 2)
    for length, mean in ((4, 1), (32, 4)):
        row = row_of(table, llm="large", run="HyperTuning", length=length, partition="qa_to_qa")
        assert row["mean"] == pytest.approx(5 * (2 + 1.5 + mean))
        differences = (row["difference"], row["difference_low"], row["difference_high"])
        assert differences == (-10, -10, -10)  # paired: every task and seed differs by 2 rows
    # ICL is one run at three points.
    icl = table[(table["run"] == "Vanilla ICL") & (table["partition"] == "AVG")]
    assert icl["mean"].tolist() == [5 * 6.5] * 6
    assert icl["difference"].tolist() == [5 * (1.0 - 2.5)] * 6


def test_numbers_are_means_over_training_seeds_and_equal_ones_are_compared():
    spec, predictions = two_trainings()
    table = compute_study(spec, predictions)
    assert len(table) == 2 * 3 * 3
    assert set(table["training_seeds"]) == {2}
    place = {"llm": "small", "length": 16, "partition": "qa_to_qa"}
    assert row_of(table, run="MEND", **place)["mean"] == pytest.approx(5 * (4 + 1.5 + 2 + 0.5))
    tuned = row_of(table, run="HyperTuning", **place)
    # Trainings differ from MEND's by 2 and 3 rows of 20; tasks and seeds alike.
    assert tuned["difference"] == pytest.approx(-12.5)
    assert (tuned["difference_low"], tuned["difference_high"]) == (-15, -10)
    icl = row_of(table, run="Vanilla ICL", **place)
    assert icl["mean"] == pytest.approx(5 * (5 + 1.5))
    missing = predictions[predictions["variant"] != "default,training.seed=1"]
    with pytest.raises(UserError, match="no predictions of .*default,training.seed=1"):
        compute_study(spec, missing)


def test_a_reference_may_be_a_value_of_another_axis_or_absent():
    spec = study(reference={"length": 4})
    predictions = predictions_of(spec, spec["partitions"])
    table = compute_study(spec, predictions)
    assert table.loc[table["length"] == 4, "difference"].isna().all()
    row = row_of(table, llm="small", run="MEND", length=32, partition="hr_to_lr")
    assert row["difference"] == -15
    # The very same predictions at both points differ by nothing, for certain.
    row = row_of(table, llm="small", run="Vanilla ICL", length=32, partition="hr_to_lr")
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)
    assert compute_study(study(reference={}), predictions)["difference"].isna().all()


def test_one_partition_has_no_average():
    spec = study(partitions=["qa_to_qa"])
    table = compute_study(spec, predictions_of(spec, spec["partitions"]))
    assert set(table["partition"]) == {"qa_to_qa"}
    spec = study(test_tasks={"qa_to_qa": TASKS, "hr_to_lr": []})
    table = compute_study(spec, predictions_of(spec, spec["partitions"]))
    assert set(table["partition"]) == {"qa_to_qa"}


def test_what_is_read_before_a_query_is_averaged_as_scores_are():
    spec = study(test_tasks={"qa_to_qa": TASKS, "hr_to_lr": TASKS[1:]})
    table = compute_study(spec, predictions_of(spec, spec["partitions"]))
    icl = table[(table["run"] == "Vanilla ICL") & (table["llm"] == "large")]
    # 60, 80 and 100 tokens, half of the rows one more.
    assert icl["context_length"].tolist() == [80.5, 90.5, 85.5] * 3
    assert icl["context_bytes"].tolist() == [644, 724, 684] * 3
    assert icl["reading_flops"].tolist() == [905, 1005, 955] * 3
    mend = table[(table["run"] == "MEND") & (table["partition"] == "AVG")]
    assert mend["context_length"].tolist() == [4, 16, 32] * 2
    assert mend["making_flops"].tolist() == [900] * 6


def test_average_rank_by_hand():
    spec = study(score="rank")
    table = compute_study(spec, predictions_of(spec, spec["partitions"]))
    assert table.loc[table["partition"] != "AVG", "average_rank"].isna().all()
    average = table[(table["llm"] == "small") & (table["partition"] == "AVG")]
    ranks = average.set_index(["run", "length"])["average_rank"]
    # 32 is first on QA and last on LR; ICL's are equal and share the mean rank.
    assert ranks["MEND"].tolist() == [2, 2, 2]
    assert ranks["Vanilla ICL"].tolist() == [2, 2, 2]
    only = study(score="rank", partitions=["qa_to_qa"])
    table = compute_study(only, predictions_of(spec, spec["partitions"]))
    assert table[table["run"] == "MEND"]["average_rank"].tolist() == [3, 2, 1] * 2
    two = study(score="rank", axes=[{"name": "run", "values": ["Vanilla ICL", "MEND"]}])
    two["runs"] = [{**r, "values": {"run": r["values"]["run"]}} for r in spec["runs"][::3]]
    two["runs"] = [run for run in two["runs"] if run["values"]["run"] in ("MEND", "Vanilla ICL")]
    table = compute_study(two, predictions_of(spec, spec["partitions"]))
    # ICL has 5; MEND 4 + 1 on QA (equal) and 4 + 4 on LR (better).
    average = table[(table["llm"] == "small") & (table["partition"] == "AVG")]
    assert average["average_rank"].tolist() == [1.75, 1.25]


@pytest.mark.parametrize(
    ("higher", "lower", "margin", "expected", "pairs"),
    [
        ({"run": "MEND"}, {"run": "HyperTuning"}, 9, "holds", 3),
        ({"run": "MEND"}, {"run": "HyperTuning"}, 11, "does not hold", 3),
        ({"run": "MEND"}, {"run": "HyperTuning"}, 10, "not clear", 3),
        # Only ICL does not gain from more vectors; it is neither above nor below.
        ({"length": 32}, {"length": 4}, 0, "not clear", 3),
        ({"run": "MEND", "length": 32}, {"run": "MEND", "length": 4}, 0, "holds", 1),
        # Equal with 4 vectors, above with more: not above by a point at every length.
        ({"run": "MEND"}, {"run": "Vanilla ICL"}, 1, "does not hold", 3),
    ],
)
def test_claims(higher, lower, margin, expected, pairs):
    claim = {"text": "so it is", "higher": higher, "lower": lower, "margin": margin}
    spec = study(claims=[claim], partitions=["qa_to_qa"])
    claims = judge_claims(spec)
    assert [claim["llm"] for claim in claims] == list(LLMS)
    assert [claim["verdict"] for claim in claims] == [expected] * 2
    assert len(claims[0]["pairs"]) == pairs


def test_several_claims_keep_their_own_pairs():
    claims = [
        {"text": "a", "higher": {"run": "MEND"}, "lower": {"run": "HyperTuning"}},
        {
            "text": "b",
            "higher": {"run": "MEND", "length": 32},
            "lower": {"run": "MEND", "length": 4},
        },
    ]
    spec = study(claims=claims, partitions=["qa_to_qa"])
    first, second, *_ = judge_claims(spec)
    assert [(pair["place"], pair["mean"]) for pair in first["pairs"]] == [
        ({"length": length}, 10) for length in (4, 16, 32)
    ]
    assert [(pair["place"], pair["mean"]) for pair in second["pairs"]] == [({}, 15)]


def test_a_claim_may_list_what_it_compares():
    claims = [
        {"text": "a", "higher": {"length": 16}, "lower": {"length": [4, 32]}},
        {"text": "b", "higher": {"length": [16, 32]}, "lower": {"length": [4, 16]}},
    ]
    claims = [
        {
            "text": claim["text"],
            **{side: {"run": "MEND", **claim[side]} for side in ("higher", "lower")},
        }
        for claim in claims
    ]
    spec = study(claims=claims, partitions=["qa_to_qa"])
    best_at_16, gains, *_ = judge_claims(spec)
    assert best_at_16["verdict"] == "does not hold"
    found = [(pair["lower"]["length"], pair["mean"]) for pair in best_at_16["pairs"]]
    assert found == [(4, 5), (32, -10)]
    assert gains["verdict"] == "holds"
    assert [pair["mean"] for pair in gains["pairs"]] == [5, 10]
    assert gains["pairs"][0]["listed"] == ["length"]
    # Axes that are not named take every value, with each pair of the lists.
    spec["claims"] = [{"text": "c", "higher": {"length": 32}, "lower": {"length": [4, 16]}}]
    (pairs, _) = (claim["pairs"] for claim in judge_claims(spec))
    assert [pair["place"]["run"] for pair in pairs] == [
        run for run in ("Vanilla ICL", "HyperTuning", "MEND") for _ in range(2)
    ]


def test_what_is_read_as_a_share_of_the_longest_context_of_a_run():
    spec = study(context_share_of="MEND", test_tasks={"qa_to_qa": TASKS, "hr_to_lr": TASKS[1:]})
    predictions = predictions_of(spec, spec["partitions"])
    table = compute_study(spec, predictions)
    shares = table[(table["llm"] == "large") & (table["partition"] == "AVG")]
    assert shares.loc[shares["run"] == "MEND", "context_share"].tolist() == [12.5, 50, 100]
    icl = table[(table["run"] == "Vanilla ICL") & (table["length"] == 4)]
    assert (
        icl["context_share"].tolist()
        == [round(100 * length / 32, 4) for length in (80.5, 90.5, 85.5)] * 2
    )
    nothing = predictions.assign(context_length=0)
    with pytest.raises(UserError, match=r"studies\.length\.context_share_of: MEND reads nothing"):
        compute_study(spec, nothing)


def test_a_method_pays_from_the_query_on_at_which_it_has_cost_less():
    spec = study(context_share_of="Vanilla ICL", partitions=["qa_to_qa"])
    predictions = predictions_of(spec, spec["partitions"])

    def pays_from(predictions, run="MEND", spec=spec) -> list[float]:
        table = compute_study(spec, predictions)
        own = table[(table["run"] == run) & (table["llm"] == "large")]
        return own["break_even_queries"].tolist()

    # Vanilla ICL takes 905 a query, MEND 900 once and then 140, 260 or 420.
    assert 900 + 1 * 140 > 905
    assert pays_from(predictions) == [2, 2, 2]
    dear = predictions.assign(making_flops=7650.0)
    assert pays_from(dear) == [11, 12, 16]  # at 10 x 765 it has cost as much, not less
    assert pays_from(predictions, "HyperTuning") == [1, 1, 1]
    assert np.isnan(pays_from(predictions, "Vanilla ICL")).all()
    slower = predictions.assign(reading_flops=1000.0)
    assert pays_from(slower) == [np.inf] * 3
    unknown = predictions.assign(making_flops=np.nan)
    assert np.isnan(pays_from(unknown)).all()


def test_what_pays_is_said_of_the_same_demonstrations():
    spec = study(context_share_of="Vanilla ICL", partitions=["qa_to_qa"])
    predictions = predictions_of(spec, spec["partitions"])
    # Vanilla ICL is evaluated in three ways, MEND in the second of them, HyperTuning in none.
    places = {4: "shots=4", 16: "shots=16", 32: "shots=32"}
    parts = [predictions[predictions["method"] == "mend"]]
    parts.append(predictions[predictions["method"] == "hypertuning"].assign(condition="group=4"))
    icl = predictions[predictions["method"] == "vanilla-icl"]
    for number, condition in places.items():
        parts.append(icl.assign(condition=condition, reading_flops=100.0 * number))
        parts[-1]["context_length"] += number
    for run in spec["runs"]:
        if run["method"] == "vanilla-icl":
            run["condition"] = places[run["values"]["length"]]
        if run["method"] == "hypertuning":
            run["condition"] = "group=4"
    predictions = pd.concat(parts).assign(making_flops=2000.0)
    predictions.loc[predictions["method"] != "vanilla-icl", "reading_flops"] = 100.0
    table = compute_study(spec, predictions)
    found = table[table["llm"] == "small"].groupby("run")["break_even_queries"].unique()
    assert found["MEND"].tolist() == [2000 // (1600 - 100) + 1]
    assert found["HyperTuning"].tolist() == [1]  # beside the longest context


def test_what_is_absent_is_named():
    spec = study()
    predictions = predictions_of(spec, spec["partitions"])
    lost = (predictions["variant"] == "length=4") & (predictions["method"] == "mend")
    with pytest.raises(UserError, match=r"no predictions of MEND, l = 4 with small \(mend, l"):
        compute_study(spec, predictions[~lost])
    lost &= (predictions["task"] == "lakes") & (predictions["partition"] == "hr_to_lr")
    with pytest.raises(UserError, match="MEND, l = 4 with small on hr_to_lr lack .* lakes"):
        compute_study(spec, predictions[~lost])
    lost &= predictions["row"] == 3
    with pytest.raises(UserError, match="19 rows of task lakes, seed 13"):
        compute_study(spec, predictions[~lost])


def test_points_that_would_be_confused_are_refused():
    spec = study()
    predictions = predictions_of(spec, spec["partitions"])
    spec["axes"] = [
        {"name": "run", "values": ["MEND", "MEND, few"]},
        {"name": "size", "values": ["few, or so", "or so"]},
    ]
    first = {**spec["runs"][-1], "values": {"run": "MEND", "size": "few, or so"}}
    spec["runs"] = [first]
    with pytest.raises(UserError, match=r"two points are called MEND, few, or so; rename"):
        compute_study(spec, predictions)


def test_the_papers_tables_are_as_those_of_studies():
    table = paper_table("table3")
    assert list(table.columns) == ["llm", "run", "demonstrations", "partition", "mean", "std"]
    row = row_of(table, run="MEND", demonstrations="BM25")
    assert (row["llm"], row["partition"], row["mean"]) == ("gpt2-large", "class_to_class", 46.82)
    row = row_of(paper_table("table4"), run="Without prediction loss", partition="AVG")
    assert row["mean"] == 40.41
    row = row_of(paper_table("table6"), llm="opt-6.7b", run="MEND")
    assert (row["partition"], row["mean"], row["std"]) == ("class_to_class", 44.27, 1.12)
    row = row_of(paper_table("table7"), run="Vanilla ICL", template="newline")
    assert (row["mean"], row["std"]) == (38.90, 2.21)
    for name, rows in (
        ("table2", 120),
        ("table3", 21),
        ("table4", 35),
        ("table6", 8),
        ("table7", 6),
    ):
        assert len(paper_table(name)) == rows
        assert paper_table(name)["mean"].notna().all()
