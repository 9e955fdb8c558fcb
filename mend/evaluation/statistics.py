"""From task scores to the numbers of a table: means, deviations over seeds, and intervals.

**Mean**: over a partition's tasks, then over seeds and training seeds. `AVG` is the mean of the
partitions' means, as in the paper's last column, so a task of several partitions counts in each.

**Seeds** are of demonstrations, as MetaICL's files have them; a *training seed* is that of new
weights and of the order of chunks. A method that is not trained has the same scores for all.

**Standard deviation**: over the seeds, of the partition's mean; with n - 1 in the denominator
(ddof = 1). It says how much the choice of demonstrations matters, not how sure the mean is.
One seed has none (NaN).

**Interval**: 95 %, percentile, from a Poisson bootstrap over tasks and seeds, crossed: each sample
counts each task, and each seed, a Poisson(1) number of times, and takes the weighted mean. The
counts belong to tasks, not to partitions or methods. So in one sample a task that several
partitions share counts equally in all of them, and AVG and differences between methods come from
the same resampled tasks and seeds (paired); resampling within each partition could not do that.
Samples that leave a partition without a task, or have no seed, are taken again. In simulations with
normal task, seed and residual effects and five seeds the interval covers the truth 95 % of the
time with 20 tasks, 93 % with 8 and 88 % with 4 (multinomial resampling: 93, 90, 83). It holds for
new tasks and seeds like these. With one training seed it does not hold for another training run.
Several are a third factor of the bootstrap, crossed with tasks and seeds and shared by partitions
and methods, so that a difference pairs equal training seeds. In the same simulations with 20 tasks,
where trainings differ by 3 points (and tasks by 8), the interval covers the truth 74 % of the time
with one training seed, 90 with two, 93 with three and 95 with five.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mend.configuration.choices import TASK_MEANS
from mend.errors import UserError

COLUMNS = [
    *("llm", "method", "partition", "mean", "std", "ci_low", "ci_high"),
    *("tasks", "seeds", "training_seeds"),
]
AVERAGE = "AVG"
BOOTSTRAP_SAMPLES = 10_000
BOOTSTRAP_SEED = 20240
DECIMALS = 4


def task_weights(tasks: Sequence[str], task_mean: str = "plain") -> np.ndarray:
    """How often each of a partition's test tasks counts in its mean; shape (tasks,).

    `plain`: once. `authors`: the authors' code picks a partition's result files by substring, so
    a task counts once for each listed name that its own name contains: `hellaswag` for itself and
    for `swag`. With MetaICL's list that makes 29 entries of the 22 QA tasks, and changes no other
    partition. Only the partition's own test tasks are candidates. See `protocol.task_mean`.
    """
    if task_mean not in TASK_MEANS:
        raise UserError(f"protocol.task_mean: {task_mean!r} is none of {', '.join(TASK_MEANS)}")
    if task_mean == "plain":
        return np.ones(len(tasks))
    return np.array([sum(name in task for name in tasks) for task in tasks], dtype=float)


def difference_name(method: str, baseline: str) -> str:
    """The `method` cell of a row that holds a difference, such as `mend - vanilla-icl`."""
    return f"{method} - {baseline}"


def summarise(
    scores: pd.DataFrame,
    llms: Sequence[str],
    methods: Sequence[str],
    partitions: Sequence[str],
    task_mean: str = "plain",
    differences: Iterable[tuple[str, str]] = (),
) -> pd.DataFrame:
    """Means, deviations and intervals of methods, and of differences between them.

    `scores` has columns llm, method, partition, task, seed, score, and training_seed where there
    are several; and for each partition the same tasks, seeds and training seeds for every LLM and
    method (`mend.evaluation.prediction_table.by_partition` makes it so). Returns long form with
    the columns `COLUMNS` in the order of the arguments: for each LLM the methods, then the
    differences (method, baseline), each with its partitions and then `AVG`. Numbers are in points
    of per cent, rounded to four decimals so that a file made twice is the same. `tasks` counts
    distinct tasks, `seeds` and `training_seeds` distinct ones of these.
    """
    if "training_seed" not in scores:
        scores = scores.assign(training_seed=0)
    differences = list(differences)
    task_names = sorted(scores["task"].unique())
    seeds = sorted(scores["seed"].unique())
    trainings = sorted(scores["training_seed"].unique())
    weights = _partition_weights(scores, partitions, task_names, task_mean)
    counts = _bootstrap_counts(weights > 0, len(seeds), len(trainings))
    rows = []
    for llm in llms:
        of_llm = scores[scores["llm"] == llm]
        values = _score_array(of_llm, methods, partitions, task_names, seeds, trainings)
        by_seed, resampled = _means(values, weights, *counts)
        names = list(methods)
        for method, baseline in differences:
            first, second = names.index(method), names.index(baseline)
            by_seed = np.concatenate([by_seed, by_seed[[first]] - by_seed[[second]]])
            resampled = np.concatenate([resampled, resampled[[first]] - resampled[[second]]])
        names += [difference_name(*pair) for pair in differences]
        low, high = np.quantile(resampled, [0.025, 0.975], axis=-1)
        mean = by_seed.mean(axis=-1)
        std = by_seed.std(axis=-1, ddof=1) if len(seeds) > 1 else np.full(mean.shape, np.nan)
        tasks = [*(weights > 0).sum(axis=1), (weights > 0).any(axis=0).sum()]
        for i, name in enumerate(names):
            for j, partition in enumerate([*partitions, AVERAGE]):
                numbers = (mean[i, j], std[i, j], low[i, j], high[i, j])
                of = (tasks[j], len(seeds), len(trainings))
                rows.append((llm, name, partition, *numbers, *of))
    table = pd.DataFrame(rows, columns=COLUMNS)
    numbers = ["mean", "std", "ci_low", "ci_high"]
    table[numbers] = table[numbers].round(DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
    return table


def verdict(low: float, high: float, margin: float) -> str:
    """`holds` or `does not hold` if the 95 % interval is wholly above or below the margin."""
    if low > margin:
        return "holds"
    if high < margin:
        return "does not hold"
    return "not clear"


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV text with a fixed number of decimals; NaN is an empty cell."""
    return table.to_csv(index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")


def _partition_weights(
    scores: pd.DataFrame, partitions: Sequence[str], task_names: Sequence[str], task_mean: str
) -> np.ndarray:
    """Weight of each task in each partition's mean, 0 for other tasks; (partitions, tasks)."""
    weights = np.zeros((len(partitions), len(task_names)))
    for row, partition in zip(weights, partitions, strict=True):
        tasks = sorted(scores.loc[scores["partition"] == partition, "task"].unique())
        if not tasks:
            raise UserError(f"partition {partition} has no test tasks with scores")
        row[np.searchsorted(task_names, tasks)] = task_weights(tasks, task_mean)
    return weights


def _score_array(
    scores: pd.DataFrame,
    methods: Sequence[str],
    partitions: Sequence[str],
    task_names: Sequence[str],
    seeds: Sequence[int],
    trainings: Sequence[int],
) -> np.ndarray:
    """One LLM's scores as (methods, partitions, tasks, seeds, training seeds).

    0 where a partition lacks a task.
    """
    shape = (len(methods), len(partitions), len(task_names), len(seeds), len(trainings))
    values = np.zeros(shape)
    wanted = scores[scores["method"].isin(methods) & scores["partition"].isin(partitions)]
    place = tuple(
        pd.Index(names).get_indexer(wanted[column])
        for names, column in [
            (methods, "method"),
            (partitions, "partition"),
            (task_names, "task"),
            (seeds, "seed"),
            (trainings, "training_seed"),
        ]
    )
    values[place] = wanted["score"]
    return values


def _bootstrap_counts(
    member: np.ndarray, seeds: int, trainings: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson(1) counts (samples, tasks), (samples, seeds) and (samples, training seeds).

    None empties a partition. A single training seed is not resampled: it counts once.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    resampled = trainings if trainings > 1 else 0
    ends = np.cumsum([member.shape[1], seeds, resampled])
    kept = np.empty((0, ends[-1]))
    while len(kept) < BOOTSTRAP_SAMPLES:
        counts = generator.poisson(1.0, size=(BOOTSTRAP_SAMPLES, ends[-1])).astype(float)
        of_tasks, of_seeds, of_trainings = np.split(counts, ends[:-1], axis=1)
        filled = (of_tasks @ member.T > 0).all(axis=1) & of_seeds.any(axis=1)
        if resampled:
            filled &= of_trainings.any(axis=1)
        kept = np.concatenate([kept, counts[filled]])
    of_tasks, of_seeds, of_trainings = np.split(kept[:BOOTSTRAP_SAMPLES], ends[:-1], axis=1)
    return of_tasks, of_seeds, of_trainings if resampled else np.ones((BOOTSTRAP_SAMPLES, 1))


def _means(
    values: np.ndarray,
    weights: np.ndarray,
    task_counts: np.ndarray,
    seed_counts: np.ndarray,
    training_counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Partition means and, last, their average.

    Returns (methods, partitions + 1, seeds) and (methods, partitions + 1, bootstrap samples).
    """
    shares = weights / weights.sum(axis=1, keepdims=True)
    by_seed = np.einsum("pt,mpts->mps", shares, values.mean(axis=-1))
    seed_shares = seed_counts / seed_counts.sum(axis=1, keepdims=True)
    training_shares = training_counts / training_counts.sum(axis=1, keepdims=True)
    resampled = np.empty((*values.shape[:2], len(task_counts)))
    for p, weight in enumerate(weights):
        task_shares = task_counts * weight
        task_shares /= task_shares.sum(axis=1, keepdims=True)
        for m in range(len(values)):
            of_tasks = np.tensordot(task_shares, values[m, p], axes=1)
            of_seeds = (of_tasks * seed_shares[:, :, None]).sum(axis=1)
            resampled[m, p] = (of_seeds * training_shares).sum(axis=1)
    with_average = [
        np.concatenate([part, part.mean(axis=1, keepdims=True)], axis=1)
        for part in (by_seed, resampled)
    ]
    return with_average[0], with_average[1]
