"""The numbers of a study: each of its points, compared with a reference, and its claims judged.

A *point* is a run with a value of each axis, such as `{run: MEND, shots: 4}`. Several points may
stand for the same predictions (a run that an axis does not touch). How means, deviations, intervals
and paired differences come about is said in `mend.evaluation.statistics`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mend.configuration.choices import TASK_MEANS
from mend.configuration.claims import Claim, Point
from mend.configuration.specs.reporting import StudySpec
from mend.errors import UserError
from mend.evaluation.metrics import scores_by_task
from mend.evaluation.prediction_table import (
    CONTEXT_COSTS,
    RUN,
    by_partition,
    check_same_rows,
)
from mend.evaluation.statistics import AVERAGE, difference_name, summarise
from mend.reporting.claims import judged
from mend.reporting.studies.names import point_text

NUMBERS = ("mean", "std", "ci_low", "ci_high", "tasks", "seeds", "training_seeds")
DIFFERENCE = {
    "difference": "mean",
    "difference_low": "ci_low",
    "difference_high": "ci_high",
}

BREAK_EVEN = "break_even_queries"

Pair = tuple[int, int]
"""Places of two points; their difference is the first minus the second."""

Rows = Mapping[tuple[str, int | Pair], list[dict[str, Any]]]
"""By LLM and point (or pair): a row for each partition, AVG last if there are several."""


@dataclass(frozen=True)
class StudyNumbers:
    """What is computed of a study.

    table: see `compute_study`; claims: of `mend.reporting.claims.judged`; other_mean: [{llm, run,
    partition, mean}], means with the other mean over tasks, in the partitions where these differ.
    """

    table: pd.DataFrame
    claims: list[dict[str, Any]]
    other_mean: list[dict[str, Any]]


def points_of(axes: Mapping[str, Sequence]) -> list[Point]:
    """All points of some axes, the last axis' values running fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def compute_study(spec: StudySpec, predictions: pd.DataFrame) -> StudyNumbers:
    """The numbers of a study, from what `read_predictions` returned.

    Columns of the table: llm, one for each axis (`run` first), partition (each, then AVG if there
    are several), mean, std, ci_low, ci_high, tasks, seeds, training_seeds, as `summarise` of
    `mend.evaluation.statistics` has them; what contexts cost, means over rows, seeds and tasks:
    context_length (positions that the LLM reads before a query), context_bytes, making_flops,
    reading_flops, as `run_prediction` of `mend.evaluation.predict` writes them; difference,
    difference_low, difference_high to the reference at the same values of the other axes (NaN for
    the reference itself, or without one); with the score `rank` average_rank, on the last rows of
    each point: 1 for the best of the last axis' values within LLM, the other axes and partition,
    averaged over the partitions; equal means share the mean of their ranks (the paper's figure 7);
    and with `context_share_of` context_share, context_length in per cent of the longest context of
    that run, of the same LLM and partition, and break_even_queries: from how many queries of one
    context on making it and reading it with each takes fewer operations than that run's reading
    alone (infinity where it never does; NaN for the run itself). With the layout `matrix`: llm,
    method, partition (AVG always), the numbers from mean to training_seeds, and what contexts cost;
    after an LLM's methods the differences that its claims are about (`mend - vanilla-icl`), of
    which nothing costs. Points of per cent, rounded to four decimals.

    Raises UserError where predictions that the specification names are absent or incomplete.
    """
    scores = point_scores(spec, predictions)
    points = points_of(spec.axis_values)
    # The place of each point's reference, if it has one other than itself.
    places = {i: points.index({**point, **spec.reference}) for i, point in enumerate(points)}
    references = [(i, place) for i, place in places.items() if place != i]
    claimed = [
        (points.index(higher), points.index(lower))
        for claim in spec.claims
        for _, higher, lower in _comparisons(claim, spec)
    ]
    pairs = list(dict.fromkeys(references + claimed))
    rows = _summary(spec, scores, points, pairs)
    matrix, costs = spec.layout == "matrix", _costs(scores)
    return StudyNumbers(
        table=_matrix(spec, rows, costs)
        if matrix
        else _list(spec, rows, costs, points, references),
        claims=[
            judgement for llm in spec.llms for judgement in _claims(spec, llm.name, rows, points)
        ],
        other_mean=_other_mean(spec, scores, points, rows) if matrix else [],
    )


def point_scores(spec: StudySpec, predictions: pd.DataFrame) -> pd.DataFrame:
    """Score of each LLM, point (as text, in the column method), partition, task and seed.

    In the column training_seed those of each training: of a method that is not trained, copies.
    And in the columns of CONTEXT_COSTS what contexts cost, the mean over rows.
    """
    wanted = {name: spec.test_tasks[name] for name in spec.scored_partitions}
    if not wanted:
        raise UserError("none of the partitions has a test task whose files are there")
    runs = [tuple(getattr(run, key) for key in RUN) for run in spec.runs]
    in_use = predictions[
        pd.MultiIndex.from_frame(predictions[list(RUN)]).isin(runs)
        & predictions["task"].isin({task for names in wanted.values() for task in names})
        & predictions["seed"].isin(spec.seeds)
    ]
    # Scored before rows are copied to points and partitions, so that each is scored once.
    scores = scores_by_task(in_use, spec.task_types, spec.metrics, spec.free_form)
    keys = [*RUN, "partition", "task", "seed"]
    scores = scores.join(in_use.groupby(keys)[CONTEXT_COSTS].mean(), on=keys)
    by_run = dict(iter(scores.groupby(list(RUN))))
    names = [point_text(point) for point in points_of(spec.axis_values)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"studies.{spec.name}: two points are called {twice}; rename values")
    parts: dict[int, list[pd.DataFrame]] = {seed: [] for seed in spec.training_seeds}
    for run, key in zip(spec.runs, runs, strict=True):
        name = point_text({axis: run.values[axis] for axis in spec.axis_values})
        if key not in by_run:
            raise UserError(
                f"studies.{spec.name}: there are no predictions of {name} with {run.llm} "
                f"({run.method}, {run.variant}, {run.condition})"
            )
        parts[run.training_seed].append(by_run[key].assign(method=name))
    llms = [llm.name for llm in spec.llms]
    scores = [
        by_partition(pd.concat(of_seed), llms, names, wanted, spec.seeds).assign(training_seed=seed)
        for seed, of_seed in parts.items()
    ]
    check_same_rows(in_use)
    return pd.concat(scores, ignore_index=True)


def _comparisons(claim: Claim, spec: StudySpec) -> Iterator[tuple[Point, Point, Point]]:
    """Yield (values of axes that a claim does not name, higher point, lower point)."""
    open_axes = {axis: v for axis, v in spec.axis_values.items() if axis not in claim.higher}
    for place in points_of(open_axes):
        for higher, lower in claim.pairs():
            yield place, {**place, **higher}, {**place, **lower}


def _summary(
    spec: StudySpec, scores: pd.DataFrame, points: Sequence[Point], pairs: Sequence[Pair]
) -> Rows:
    names = [point_text(point) for point in points]
    llms, partitions = [llm.name for llm in spec.llms], spec.scored_partitions
    named = [(names[first], names[second]) for first, second in pairs]
    table = summarise(scores, llms, names, partitions, spec.task_mean, named)
    width = len(partitions) + 1
    if len(partitions) == 1 and spec.layout == "list":
        table, width = table[table["partition"] != AVERAGE], 1
    rows = iter(table.to_dict("records"))
    return {
        (llm, key): list(itertools.islice(rows, width))
        for llm in llms
        for key in [*range(len(points)), *pairs]
    }


def _costs(scores: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, float]]:
    """What contexts cost by LLM, point (as text) and partition, of AVG the mean over partitions."""
    keys = ["llm", "method", "partition"]
    each = scores.groupby(keys)[CONTEXT_COSTS].mean()
    whole = (
        each.groupby(keys[:2]).mean().assign(partition=AVERAGE).set_index("partition", append=True)
    )
    return pd.concat([each, whole]).round(4).to_dict("index")


def _list(
    spec: StudySpec,
    rows: Rows,
    costs: Mapping[tuple[str, str, str], Mapping[str, float]],
    points: Sequence[Point],
    references: Sequence[Pair],
) -> pd.DataFrame:
    reference = dict(references)
    lines = []
    for llm in spec.llms:
        for i, point in enumerate(points):
            own = rows[llm.name, i]
            others = rows[llm.name, (i, reference[i])] if i in reference else [None] * len(own)
            for row, other in zip(own, others, strict=True):
                partition = row["partition"]
                line = {"llm": llm.name, **point, "partition": partition}
                line |= {key: row[key] for key in NUMBERS}
                line |= costs[llm.name, point_text(point), partition]
                line |= {k: other[key] if other else np.nan for k, key in DIFFERENCE.items()}
                lines.append(line)
    table = pd.DataFrame(lines)
    if spec.score == "rank":
        table["average_rank"] = _average_rank(table, list(spec.axis_values))
    if spec.context_share_of:
        table["context_share"] = _context_share(spec, table)
        table[BREAK_EVEN] = _break_even(spec, table)
    return table


def _matrix(
    spec: StudySpec, rows: Rows, costs: Mapping[tuple[str, str, str], Mapping[str, float]]
) -> pd.DataFrame:
    names = {run.method: point_text(run.values) for run in spec.runs}
    methods = list(dict.fromkeys(run.method for run in spec.runs))
    lines = []
    for (llm, key), of_key in rows.items():
        pair = [methods[place] for place in (key if isinstance(key, tuple) else [key])]
        name = difference_name(*pair) if len(pair) == 2 else pair[0]
        for row in of_key:
            numbers = {number: row[number] for number in NUMBERS}
            place = llm, names.get(name), row["partition"]
            numbers |= costs.get(place, dict.fromkeys(CONTEXT_COSTS, np.nan))
            lines.append({"llm": llm, "method": name, "partition": row["partition"], **numbers})
    return pd.DataFrame(lines)


def _claims(
    spec: StudySpec, llm: str, rows: Rows, points: Sequence[Point]
) -> Iterator[dict[str, Any]]:
    """Judge each claim for an LLM, on AVG (or the only partition)."""
    for claim in spec.claims:
        pairs = []
        for place, higher, lower in _comparisons(claim, spec):
            *each, row = rows[llm, (points.index(higher), points.index(lower))]
            pairs.append(
                {
                    "place": place,
                    "listed": [axis for axis in spec.axis_values if axis in claim.listed_axes],
                    "higher": higher,
                    "lower": lower,
                    **{key: row[key] for key in ("mean", "ci_low", "ci_high")},
                    "above": sum(of_partition["mean"] > claim.margin for of_partition in each),
                }
            )
        yield judged(claim.text, llm, claim.margin, pairs)


def _other_mean(
    spec: StudySpec, scores: pd.DataFrame, points: Sequence[Point], rows: Rows
) -> list[dict[str, Any]]:
    (other,) = set(TASK_MEANS) - {spec.task_mean}
    spec = spec.model_copy(update={"task_mean": other})
    found = [
        {"llm": llm, "run": points[i]["run"], "partition": row["partition"], "mean": row["mean"]}
        for (llm, i), of_point in _summary(spec, scores, points, []).items()
        for row in of_point
    ]
    ours = (row["mean"] for i in rows for row in rows[i] if not isinstance(i[1], tuple))
    differing = {
        row["partition"]
        for row, mean in zip(found, ours, strict=True)
        if abs(row["mean"] - mean) >= 0.005
    }
    return [row for row in found if row["partition"] in differing]


def _average_rank(table: pd.DataFrame, axes: Sequence[str]) -> pd.Series:
    each = table[table["partition"] != AVERAGE]
    groups = each.groupby(["llm", *axes[:-1], "partition"])["mean"]
    ranks = each.assign(rank=groups.rank(ascending=False, method="average"))
    means = ranks.groupby(["llm", *axes])["rank"].mean().round(4)
    last = ~table.duplicated(["llm", *axes], keep="last")
    found = table.set_index(["llm", *axes]).index.map(means)
    return pd.Series(np.where(last, found, np.nan), index=table.index)


def _context_share(spec: StudySpec, table: pd.DataFrame) -> pd.Series:
    of_run = table[table["run"] == spec.context_share_of]
    longest = of_run.groupby(["llm", "partition"])["context_length"].max()
    if (longest == 0).any():
        raise UserError(
            f"studies.{spec.name}.context_share_of: {spec.context_share_of} reads nothing "
            "before a query; name a run that does"
        )
    whole = table.set_index(["llm", "partition"]).index.map(longest)
    return (100 * table["context_length"] / whole).round(4)


def _break_even(spec: StudySpec, table: pd.DataFrame) -> pd.Series:
    """From how many queries on each row's contexts pay; see `compute_study`."""
    axes = list(spec.axis_values)
    conditions = {
        (run.llm, *(run.values[axis] for axis in axes)): run.condition for run in spec.runs
    }
    rows = table.assign(
        condition=[
            conditions[place] for place in zip(*(table[a] for a in ["llm", *axes]), strict=True)
        ]
    )
    own = rows[rows["run"] == spec.context_share_of].sort_values("context_length")
    # Of demonstrations alike; where that run has none, its longest context.
    alike = own.groupby(["llm", "partition", "condition"])["reading_flops"].last()
    longest = own.groupby(["llm", "partition"])["reading_flops"].last()
    found = []
    for row in rows.to_dict("records"):
        place = row["llm"], row["partition"]
        instead = alike.get((*place, row["condition"]), longest[place])
        is_own = row["run"] == spec.context_share_of
        found.append(math.nan if is_own else _pays_from(row, instead))
    return pd.Series(found, index=table.index)


def _pays_from(row: Mapping[str, float], instead: float) -> float:
    saved = instead - row["reading_flops"]
    if math.isnan(saved + row["making_flops"]):
        return math.nan
    return math.floor(row["making_flops"] / saved) + 1 if saved > 0 else math.inf
