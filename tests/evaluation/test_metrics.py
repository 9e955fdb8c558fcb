"""Task scores: worked by hand, and against another formula."""

import numpy as np
import pandas as pd
import pytest

from mend.errors import UserError
from mend.evaluation.metrics import accuracy, macro_f1, scores_by_task, task_score, uses_macro_f1


def test_macro_f1_by_hand():
    gold = ["a", "a", "a", "b", "b", "c"]
    predicted = ["a", "a", "b", "b", "d", "b"]
    # a: TP 2, FP 0, FN 1 -> 4/5; b: TP 1, FP 2, FN 1 -> 2/5; c: never predicted -> 0.
    # d is predicted but never gold: no term of its own.
    assert macro_f1(gold, predicted) == pytest.approx(100 * (4 / 5 + 2 / 5 + 0) / 3)


def test_macro_f1_equals_harmonic_mean_of_precision_and_recall():
    generator = np.random.default_rng(1)
    for _ in range(50):
        gold = generator.integers(0, 5, size=23)
        predicted = generator.integers(0, 6, size=23)
        terms = []
        for label in set(gold.tolist()):
            hits = sum(p == label for g, p in zip(gold, predicted, strict=True) if g == label)
            recall = hits / sum(gold == label)
            chosen = sum(predicted == label)
            precision = hits / chosen if chosen else 1.0
            total = precision + recall
            terms.append(2 * precision * recall / total if total else 0.0)
        assert macro_f1(gold, predicted) == pytest.approx(100 * sum(terms) / len(terms))


def test_accuracy_by_hand():
    assert accuracy([0, 1, 2, 0], [0, 1, 1, 1]) == 50.0


def test_perfect_and_wrong():
    assert macro_f1(["x", "y"], ["x", "y"]) == 100
    assert macro_f1(["x", "y"], ["y", "x"]) == 0


def test_which_metric():
    assert uses_macro_f1("classification", "metaicl")
    assert not uses_macro_f1("multi-choice", "metaicl")
    assert not uses_macro_f1("classification", "paper")
    assert uses_macro_f1("multi-choice", "paper")
    with pytest.raises(UserError, match=r"protocol\.metrics"):
        uses_macro_f1("classification", "papers")


def test_task_score_follows_the_metric():
    gold, predicted = ["a", "a", "b"], ["a", "a", "a"]
    assert task_score(gold, predicted, "classification") == pytest.approx(100 * (4 / 5) / 2)
    assert task_score(gold, predicted, "classification", "paper") == pytest.approx(200 / 3)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 gold labels for 1"):
        accuracy([0, 1], [0])


def predictions_of(task, gold, predicted, texts):
    rows = len(gold)
    return pd.DataFrame(
        {
            "llm": "l",
            "method": "m",
            "variant": "default",
            "condition": "shots=16",
            "partition": "p",
            "task": task,
            "seed": 13,
            "row": range(rows),
            "gold": gold,
            "predicted": predicted,
            "gold_text": [texts[r][g] for r, g in enumerate(gold)],
            "predicted_text": [texts[r][p] for r, p in enumerate(predicted)],
        }
    )


def test_scores_by_task_compares_label_texts_in_classification_and_indices_elsewhere():
    # The same label sits at another index in each row, so indices would give another score.
    texts = [["yes", "no"], ["no", "yes"], ["yes", "no"]]
    gold, predicted = [0, 1, 1], [0, 1, 0]
    table = pd.concat(
        predictions_of(task, gold, predicted, texts) for task in ("sentiment", "questions")
    )
    types = {"sentiment": "classification", "questions": "multi-choice"}
    scores = scores_by_task(table, types, "metaicl").set_index("task")["score"]
    # yes: TP 2, FP 1, FN 0 -> 4/5; no: never predicted -> 0. By index it would be 2/3 twice.
    assert scores["sentiment"] == pytest.approx(40.0)
    assert scores["questions"] == pytest.approx(200 / 3)
    swapped = scores_by_task(table, types, "paper").set_index("task")["score"]
    assert swapped["sentiment"] == pytest.approx(200 / 3)
    assert swapped["questions"] == pytest.approx(40.0)


def test_accuracy_is_of_indices_even_where_two_options_have_one_text():
    table = predictions_of("questions", [0, 1], [1, 1], [["same", "same"], ["up", "down"]])
    assert scores_by_task(table, {"questions": "multi-choice"})["score"].tolist() == [50.0]


def test_scores_by_task_names_an_unknown_task():
    table = predictions_of("strange", [0], [0], [["a", "b"]])
    with pytest.raises(UserError, match="strange"):
        scores_by_task(table, {})


def test_rows_of_no_run_are_scored_too():
    """Early stopping scores dev rows, which belong to no run yet, as tables score test rows."""
    texts = [["yes", "no"], ["no", "yes"], ["yes", "no"]]
    table = predictions_of("sentiment", [0, 1, 1], [0, 1, 0], texts)
    dev = table[["task", "seed", "row", "gold", "predicted", "gold_text", "predicted_text"]]
    (score,) = scores_by_task(dev, {"sentiment": "classification"})["score"]
    assert score == scores_by_task(table, {"sentiment": "classification"})["score"].item()
