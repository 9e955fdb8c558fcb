"""Means, deviations and intervals; and the paper's own tables."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mend.configuration import task_list as partitions
from mend.configuration.choices import PARTITIONS
from mend.configuration.task_list import METAICL_TASK_LIST, read_task_list
from mend.errors import UserError
from mend.evaluation.statistics import COLUMNS, difference_name, summarise, task_weights, to_csv
from mend.paper import paper_table

SEEDS = [13, 21, 42, 87, 100]


def scores_of(values, partition="p", llm="l"):
    """Scores from {method: array (tasks, seeds)}; at most five seeds."""
    rows = [
        (llm, method, partition, f"task{t}", SEEDS[s], array[t, s])
        for method, array in values.items()
        for t, s in itertools.product(*map(range, np.shape(array)))
    ]
    return pd.DataFrame(rows, columns=["llm", "method", "partition", "task", "seed", "score"])


def row_of(table, method, partition="p"):
    return table[(table["method"] == method) & (table["partition"] == partition)].iloc[0]


def test_mean_and_deviation_by_hand():
    array = np.array([[10.0, 20.0, 60.0], [30.0, 40.0, 50.0]])
    table = summarise(scores_of({"m": array}), ["l"], ["m"], ["p"])
    row = row_of(table, "m")
    # Seeds' means are 20, 30, 55: their mean is 35, their squared deviations 225 + 25 + 400.
    assert list(table.columns) == COLUMNS
    assert row["mean"] == 35
    assert row["std"] == pytest.approx(np.sqrt(650 / 2), abs=1e-4)
    assert (row["tasks"], row["seeds"]) == (2, 3)


def test_one_seed_has_no_deviation_and_no_task_variation_no_interval():
    table = summarise(scores_of({"m": np.full((4, 1), 7.0)}), ["l"], ["m"], ["p"])
    row = row_of(table, "m")
    assert np.isnan(row["std"])
    assert row["ci_low"] == row["ci_high"] == 7
    assert "l,m,p,7.0000,,7.0000,7.0000,4,1,1\n" in to_csv(table)


def test_average_is_the_mean_of_the_partitions_and_not_of_the_tasks():
    few = scores_of({"m": np.array([[90.0, 90.0, 90.0]])}, "few")
    many = scores_of({"m": np.full((9, 3), 10.0)}, "many")
    table = summarise(pd.concat([few, many]), ["l"], ["m"], ["few", "many"])
    assert row_of(table, "m", "AVG")["mean"] == 50
    assert row_of(table, "m", "AVG")["tasks"] == 9  # task0 is in both


def test_rows_come_in_the_order_that_was_asked_for():
    parts = [scores_of({m: np.ones((2, 3)) for m in "ab"}, p, llm) for p in "qp" for llm in "xy"]
    table = summarise(pd.concat(parts), ["y", "x"], ["b", "a"], ["q", "p"], "plain", [("a", "b")])
    expected = itertools.product(["y", "x"], ["b", "a", "a - b"], ["q", "p", "AVG"])
    assert list(table[["llm", "method", "partition"]].itertuples(index=False)) == list(expected)


def test_a_difference_is_paired():
    generator = np.random.default_rng(3)
    array = generator.normal(50, 20, size=(12, 3))
    values = {"a": array, "same": array, "shifted": array + 5}
    pairs = [("same", "a"), ("shifted", "a")]
    table = summarise(scores_of(values), ["l"], list(values), ["p"], "plain", pairs)
    for partition in ("p", "AVG"):
        same = row_of(table, difference_name("same", "a"), partition)
        assert (same["mean"], same["std"], same["ci_low"], same["ci_high"]) == (0, 0, 0, 0)
        shifted = row_of(table, difference_name("shifted", "a"), partition)
        assert (shifted["mean"], shifted["ci_low"], shifted["ci_high"]) == (5, 5, 5)
    alone = row_of(table, "a")
    assert alone["ci_high"] - alone["ci_low"] > 10


def test_a_task_that_partitions_share_is_resampled_alike_in_both():
    generator = np.random.default_rng(4)
    array = generator.normal(50, 20, size=(8, 3))
    both = pd.concat([scores_of({"m": array}, "p"), scores_of({"m": 100 - array}, "q")])
    table = summarise(both, ["l"], ["m"], ["p", "q"])
    # p and q mirror each other, so their average is 50 in every draw if tasks are drawn jointly.
    average = row_of(table, "m", "AVG")
    assert (average["ci_low"], average["ci_high"]) == (50, 50)
    assert row_of(table, "m", "p")["ci_high"] > row_of(table, "m", "p")["ci_low"] + 5


def test_the_interval_is_as_wide_as_the_standard_error_says():
    tasks = 40
    values = np.random.default_rng(5).normal(50, 10, size=(tasks, 1)) @ np.ones((1, 3))
    row = row_of(summarise(scores_of({"m": values}), ["l"], ["m"], ["p"]), "m")
    error = values[:, 0].std(ddof=1) / np.sqrt(tasks)
    assert row["ci_low"] < row["mean"] < row["ci_high"]
    assert (row["ci_high"] - row["ci_low"]) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for world in range(60):
        generator = np.random.default_rng(world)
        tasks = generator.normal(0, 8, size=(25, 1))
        seeds = generator.normal(0, 2, size=(1, 5))
        values = 50 + tasks + seeds + generator.normal(0, 2, size=(25, 5))
        row = row_of(summarise(scores_of({"m": values}), ["l"], ["m"], ["p"]), "m")
        covered += row["ci_low"] < 50 < row["ci_high"]
    assert 50 <= covered <= 60  # 57 expected


def test_seeds_alone_give_an_interval():
    values = np.ones((5, 1)) @ np.array([[40.0, 50.0, 60.0]])
    row = row_of(summarise(scores_of({"m": values}), ["l"], ["m"], ["p"]), "m")
    assert row["ci_low"] < 45
    assert row["ci_high"] > 55


def trained_scores(values):
    """Scores from {method: array (tasks, seeds, training seeds)}."""
    trainings = range(next(iter(values.values())).shape[2])
    return pd.concat(
        scores_of({name: array[:, :, i] for name, array in values.items()}).assign(training_seed=i)
        for i in trainings
    )


def test_the_mean_is_over_training_seeds_and_the_deviation_over_seeds():
    array = np.array([[[10.0, 20.0], [30.0, 60.0]]])  # seeds' means over trainings: 15 and 45
    row = row_of(summarise(trained_scores({"m": array}), ["l"], ["m"], ["p"]), "m")
    assert row["mean"] == 30
    assert row["std"] == pytest.approx(np.sqrt(2 * 15**2), abs=1e-4)
    assert (row["seeds"], row["training_seeds"]) == (2, 2)


def test_training_seeds_alone_give_an_interval_as_wide_as_their_standard_error():
    trainings = np.random.default_rng(8).normal(50, 6, size=30)
    values = np.ones((4, 3, 1)) * trainings
    row = row_of(summarise(trained_scores({"m": values}), ["l"], ["m"], ["p"]), "m")
    error = trainings.std(ddof=1) / np.sqrt(30)
    assert (row["ci_high"] - row["ci_low"]) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    # One training says nothing of another: its interval is that of tasks and seeds.
    one = row_of(summarise(trained_scores({"m": values[:, :, :1]}), ["l"], ["m"], ["p"]), "m")
    assert one["ci_low"] == one["ci_high"] == pytest.approx(trainings[0], abs=1e-4)


def test_a_difference_pairs_equal_training_seeds():
    generator = np.random.default_rng(9)
    first = generator.normal(50, 2, size=(6, 3, 1)) + generator.normal(0, 9, size=(1, 1, 4))
    values = {"a": first, "shifted": first + 5, "other": np.flip(first, axis=2)}
    pairs = [("shifted", "a"), ("other", "a")]
    table = summarise(trained_scores(values), ["l"], list(values), ["p"], "plain", pairs)
    shifted = row_of(table, "shifted - a")
    assert (shifted["ci_low"], shifted["mean"], shifted["ci_high"]) == (5, 5, 5)
    other = row_of(table, "other - a")
    assert other["mean"] == 0
    assert other["ci_high"] - other["ci_low"] > 5


def test_scores_that_training_does_not_change_have_the_interval_of_one_training():
    generator = np.random.default_rng(10)
    array = generator.normal(50, 20, size=(12, 3, 1))
    copies = summarise(trained_scores({"m": np.tile(array, 5)}), ["l"], ["m"], ["p"])
    once = summarise(trained_scores({"m": array}), ["l"], ["m"], ["p"])
    for key in ("mean", "std", "ci_low", "ci_high"):
        # The bootstrap's samples are others.
        assert row_of(copies, "m")[key] == pytest.approx(row_of(once, "m")[key], abs=0.4), key


def test_the_csv_is_the_same_twice_and_whatever_the_order_of_rows():
    scores = scores_of({m: np.random.default_rng(6).normal(50, 9, (7, 3)) for m in "ab"})
    arguments = (["l"], ["a", "b"], ["p"], "plain", [("a", "b")])
    first = to_csv(summarise(scores, *arguments))
    assert to_csv(summarise(scores.sample(frac=1, random_state=0), *arguments)) == first
    assert first.splitlines()[0] == (
        "llm,method,partition,mean,std,ci_low,ci_high,tasks,seeds,training_seeds"
    )


def test_the_csv_has_no_negative_zero():
    scores = scores_of({"a": np.full((2, 3), 50.0), "b": np.full((2, 3), 50.0 + 1e-9)})
    text = to_csv(summarise(scores, ["l"], ["a", "b"], ["p"], "plain", [("a", "b")]))
    assert "a - b,p,0.0000,0.0000,0.0000,0.0000" in text


def test_a_partition_without_scores_is_named():
    with pytest.raises(UserError, match="partition q has no test tasks"):
        summarise(scores_of({"m": np.ones((2, 3))}), ["l"], ["m"], ["p", "q"])


def test_authors_mean_counts_a_task_for_each_name_that_its_own_contains():
    names = ["qasc", "qasc_with_ir", "boats"]
    assert task_weights(names, "authors").tolist() == [1, 2, 1]
    assert task_weights(names, "plain").tolist() == [1, 1, 1]
    with pytest.raises(UserError, match=r"protocol\.task_mean"):
        task_weights(names, "median")
    scores = scores_of({"m": np.array([[0.0] * 3, [90.0] * 3])})
    scores["task"] = scores["task"].map({"task0": "qasc", "task1": "qasc_with_ir"})
    assert row_of(summarise(scores, ["l"], ["m"], ["p"]), "m")["mean"] == 45
    assert row_of(summarise(scores, ["l"], ["m"], ["p"], "authors"), "m")["mean"] == 60


def test_authors_mean_has_29_entries_for_the_22_question_answering_tasks():
    tasks = read_task_list(METAICL_TASK_LIST)
    entries = {
        name: task_weights(partitions.test_tasks(tasks, name), "authors").sum()
        for name in PARTITIONS
    }
    assert entries == {
        "class_to_class": 20,
        "non_class_to_class": 20,
        "non_nli_to_nli": 8,
        "non_qa_to_qa": 29,
        "qa_to_qa": 29,
        "hr_to_lr": 26,
        "non_paraphrase_to_paraphrase": 4,
    }


@pytest.mark.parametrize("llm", ["gpt2-large", "gpt2-xl", "t5-lm-large"])
def test_the_papers_averages_in_table_2_agree_with_its_partitions(llm):
    table = paper_table("table2")
    for _, rows in table[table["llm"] == llm].groupby("run"):
        means = rows.set_index("partition")["mean"]
        assert len(means) == 8
        assert means.loc[list(PARTITIONS)].mean() == pytest.approx(means["AVG"], abs=0.00501)


def test_the_papers_averages_in_table_4_agree_but_for_two():
    table = paper_table("table4").pivot(index="run", columns="partition", values="mean")
    off = (table.drop(columns="AVG").mean(axis=1) - table["AVG"]).abs()
    assert off[off > 0.00501].round(2).to_dict() == {"MEND": 0.01, "Without prediction loss": 0.4}


def test_every_table_of_the_paper_reads_and_another_is_named():
    for name in [*(f"table{number}" for number in range(1, 8)), "figure3"]:
        assert len(paper_table(name)) > 2
    with pytest.raises(UserError, match="choose claims, figure3, table1"):
        paper_table("table9")
