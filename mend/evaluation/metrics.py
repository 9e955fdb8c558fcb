"""Scores of a task from predicted options, in per cent.

MetaICL (section 4.3; its released evaluation code) uses macro-F1 for classification tasks and
accuracy for the rest. The MEND paper's text has the two swapped; `metrics: paper` follows the
text, `metrics: metaicl` (the default, and what the authors' code does) follows MetaICL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mend.configuration.choices import METRICS
from mend.errors import UserError

KEYS = ("llm", "method", "variant", "condition", "partition", "task", "seed")
"""What a task's score belongs to."""


def macro_f1(gold: Sequence, predicted: Sequence) -> float:
    """Macro-F1 in per cent over the labels that occur among the gold rows.

    A label's F1 is 2 TP / (2 TP + FP + FN), which is 0 for a gold label that is never predicted.
    A label that is predicted but never gold adds no term of its own, as in MetaICL; the rows so
    predicted still count as misses of their gold labels. Leaving such labels out matters with
    few rows: a term with F1 = 0 by construction would measure the sample, not the method.
    """
    gold, predicted = _paired(gold, predicted)
    labels = np.unique(gold)
    is_gold = gold[:, None] == labels
    is_predicted = predicted[:, None] == labels
    true_positive = (is_gold & is_predicted).sum(axis=0)
    f1 = 2 * true_positive / (is_gold.sum(axis=0) + is_predicted.sum(axis=0))
    return float(100 * f1.mean())


def accuracy(gold: Sequence, predicted: Sequence) -> float:
    """Per cent of the rows where `predicted` equals `gold`."""
    gold, predicted = _paired(gold, predicted)
    return float(100 * (gold == predicted).mean())


def task_score(gold: Sequence, predicted: Sequence, kind: str, metrics: str = "metaicl") -> float:
    """Score of one task under one seed, in per cent.

    `gold` and `predicted` hold one label for each row. Where `uses_macro_f1(kind, metrics)`,
    they must be option texts, because an option's index may mean another label in another row;
    otherwise option indices. `kind` is the task's type. With `metrics="paper"` a multi-choice
    task gets macro-F1 over the texts of its right options: each text that is right in some row
    is a label. If no text is right twice, that is close to the accuracy.
    """
    if uses_macro_f1(kind, metrics):
        return macro_f1(gold, predicted)
    return accuracy(gold, predicted)


def uses_macro_f1(kind: str, metrics: str = "metaicl") -> bool:
    """Whether tasks of type `kind` get macro-F1 (else accuracy), by `protocol.metrics`."""
    if metrics not in METRICS:
        raise UserError(f"protocol.metrics: {metrics!r} is none of {', '.join(METRICS)}")
    return (kind == "classification") == (metrics == "metaicl")


def scores_by_task(
    predictions: pd.DataFrame,
    types: Mapping[str, str],
    metrics: str = "metaicl",
    free_form: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Score each task under each seed: for tables, and for early stopping.

    `predictions` is what `mend.evaluation.prediction_table` returns: a row for each dev or test
    row. `types`: each task's type; `free_form`: the metric of each free-form task, whose score is
    its mean over the rows. Returns the columns of `KEYS` that are there, and score (per
    cent), in the order of first appearance. Raises UserError for a task without a type.
    """
    unknown = sorted(set(predictions["task"]) - set(types))
    if unknown:
        raise UserError(f"predictions for tasks that the task list lacks: {', '.join(unknown)}")
    keys = [key for key in KEYS if key in predictions]
    # Integer codes for texts: equality is all that macro-F1 needs, and comparing is quicker.
    texts = pd.concat([predictions["gold_text"], predictions["predicted_text"]])
    codes = pd.factorize(texts, sort=True)[0].reshape(2, len(predictions))
    indices = predictions[["gold", "predicted"]].to_numpy().T
    rows = []
    for key, group in predictions.reset_index(drop=True).groupby(keys, sort=False):
        task = key[keys.index("task")]
        if metric := (free_form or {}).get(task):
            rows.append((*key, float(group[metric.replace("-", "_")].mean())))
            continue
        kind = types[task]
        labels = codes if uses_macro_f1(kind, metrics) else indices
        gold, predicted = labels[:, group.index]
        rows.append((*key, task_score(gold, predicted, kind, metrics)))
    return pd.DataFrame(rows, columns=[*keys, "score"])


def _paired(gold: Sequence, predicted: Sequence) -> tuple[np.ndarray, np.ndarray]:
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    if len(gold) == 0 or len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold labels for {len(predicted)} predicted ones")
    return gold, predicted
