"""The numbers of a study: each of its points, compared with a reference, and its claims judged.

A *point* is a run with a value of each axis, such as `{run: MEND, shots: 4}`. Several points may
stand for the same predictions (a run that an axis does not touch). How means, deviations, intervals
and paired differences come about is said in `mend.evaluation.statistics`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mend.configuration.claims import compared_points, listed_axes
from mend.configuration.task_list import Task
from mend.errors import UserError
from mend.evaluation.metrics import scores_by_task
from mend.evaluation.prediction_table import RUN, by_partition, check_same_rows
from mend.evaluation.statistics import AVERAGE, summarise, tasks_to_score, verdict
from mend.reporting.studies.names import point_text

NUMBERS = ("mean", "std", "ci_low", "ci_high", "tasks", "seeds", "context_length")
DIFFERENCE = ("difference", "difference_low", "difference_high")

Point = dict[str, Any]
Spec = Mapping[str, Any]


def study_axes(spec: Spec) -> dict[str, list]:
    """The axes of a study and their values, beginning with `run`; text unless all are numbers.

    Raises UserError for an axis with the name of another column of the table.
    """
    axes = {axis["name"]: list(axis["values"]) for axis in spec["axes"]}
    reserved = {"llm", "partition", "average_rank", "context_share", *NUMBERS, *DIFFERENCE}
    for name, values in axes.items():
        if name in reserved:
            raise UserError(f"studies.{spec['name']}.vary.{name}: a column's name; rename the axis")
        if not all(isinstance(value, (int, float)) for value in values):
            axes[name] = [str(value) for value in values]
    return axes


def points_of(axes: Mapping[str, Sequence]) -> list[Point]:
    """All points of some axes, the last axis' values running fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def normal_point(point: Mapping[str, Any], axes: Mapping[str, Sequence]) -> Point:
    """A point's values as those of its axes, in their order: text unless all are numbers."""
    return {
        axis: str(point[axis]) if isinstance(values[0], str) else point[axis]
        for axis, values in axes.items()
        if axis in point
    }


def compute_study(spec: Spec, tasks: Mapping[str, Task], predictions: pd.DataFrame) -> pd.DataFrame:
    """The table of a study in long form, from what `read_predictions` returned.

    Columns: llm, one for each axis (`run` first), partition (each, then AVG if there are several),
    mean, std, ci_low, ci_high, tasks, seeds, as `mend.evaluation.statistics.summarise` has them;
    context_length, how many positions (tokens or vectors) the LLM reads before a query, the mean
    over rows, seeds and tasks; difference, difference_low, difference_high to the reference at the
    same values of the other axes (NaN for the reference itself, or without one); with the score
    `rank` average_rank, on the last rows of each point: 1 for the best of the last axis' values
    within LLM, the other axes and partition, averaged over the partitions; equal means share the
    mean of their ranks (the paper's figure 7); and with `context_share_of` context_share,
    context_length in per cent of the longest context of that run, of the same LLM and partition.
    Points of per cent, rounded to four decimals.

    Raises UserError where predictions that the specification names are absent or incomplete.
    """
    return study_table(spec, point_scores(spec, tasks, predictions))


def point_scores(spec: Spec, tasks: Mapping[str, Task], predictions: pd.DataFrame) -> pd.DataFrame:
    """Score of each LLM, point (as text, in the column method), partition, task and seed.

    And in the column context_length what the LLM read before a query, the mean over its rows.
    """
    wanted = tasks_to_score(spec, tasks)
    axes = study_axes(spec)
    runs = pd.MultiIndex.from_tuples([tuple(run[key] for key in RUN) for run in spec["runs"]])
    in_use = predictions[
        pd.MultiIndex.from_frame(predictions[list(RUN)]).isin(runs)
        & predictions["task"].isin({task for names in wanted.values() for task in names})
        & predictions["seed"].isin(spec["seeds"])
    ]
    # Scored before rows are copied to points and partitions, so that each is scored once.
    types = {name: task.type for name, task in tasks.items()}
    scores = scores_by_task(in_use, types, spec["protocol"].get("metrics", "metaicl"))
    keys = [*RUN, "partition", "task", "seed"]
    scores = scores.join(in_use.groupby(keys)["context_length"].mean(), on=keys)
    by_run = dict(iter(scores.groupby(list(RUN))))
    parts = []
    for run in spec["runs"]:
        found = by_run.get(tuple(run[key] for key in RUN))
        label = point_text(normal_point(run["values"], axes))
        if found is None:
            raise UserError(
                f"studies.{spec['name']}: there are no predictions of {label} with {run['llm']} "
                f"({run['method']}, {run['variant']}, {run['condition']})"
            )
        parts.append(found.assign(method=label))
    llms = [llm["name"] for llm in spec["llms"]]
    labels = [point_text(point) for point in points_of(axes)]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"studies.{spec['name']}: two points are called {twice}; rename values")
    scores = by_partition(pd.concat(parts), llms, labels, wanted, spec["seeds"])
    check_same_rows(in_use)
    return scores


def study_table(spec: Spec, scores: pd.DataFrame) -> pd.DataFrame:
    """The table of `compute_study` from the scores of its points."""
    axes = study_axes(spec)
    points = points_of(axes)
    reference = normal_point(spec.get("reference") or {}, axes)
    # The place of each point's reference, if it has one other than itself.
    places = {i: points.index({**point, **reference}) for i, point in enumerate(points)}
    pairs = {i: place for i, place in places.items() if place != i}
    rows = []
    lengths = scores.groupby(["llm", "method", "partition"])["context_length"].mean()
    for llm, numbers, differences in _summaries(spec, scores, points, list(pairs.items())):
        compared = dict(zip(pairs, differences, strict=True))
        for i, (point, of_point) in enumerate(zip(points, numbers, strict=True)):
            own = lengths[llm, point_text(point)]
            for place, row in enumerate(of_point):
                row["context_length"] = round(own.get(row["partition"], own.mean()), 4)
                difference = compared[i][place] if i in compared else {}
                rows.append(
                    {
                        "llm": llm,
                        **point,
                        "partition": row["partition"],
                        **{key: row[key] for key in NUMBERS},
                        "difference": difference.get("mean", np.nan),
                        "difference_low": difference.get("ci_low", np.nan),
                        "difference_high": difference.get("ci_high", np.nan),
                    }
                )
    table = pd.DataFrame(rows)
    if spec.get("score") == "rank":
        table["average_rank"] = _average_rank(table, list(axes))
    if spec.get("context_share_of"):
        table["context_share"] = _context_share(spec, table)
    return table


def judge_claims(spec: Spec, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Judge each claim of a study for each LLM, on AVG (or the only partition).

    A claim compares two points; axes that it does not name take every value, the same on both
    sides, and of lists see `mend.configuration.claims.compared_points`. Returns dicts with text,
    llm, margin, verdict and pairs: [{place (the values of the axes that were not named), listed
    (axes whose values the claim lists), higher, lower (the points), difference, low, high,
    verdict}]. The claim holds where all its pairs do, and does not hold where one does not.
    """
    axes = study_axes(spec)
    points = points_of(axes)
    found, pairs = [], []
    for claim in spec.get("claims") or ():
        open_axes = {axis: axes[axis] for axis in axes if axis not in claim["higher"]}
        sides = [
            [normal_point(side, axes) for side in compared] for compared in compared_points(claim)
        ]
        both = list(itertools.product(points_of(open_axes), sides))
        found.append((claim, [place for place, _ in both]))
        for place, compared in both:
            pairs.append(tuple(points.index({**place, **side}) for side in compared))
    claims = []
    for llm, _, differences in _summaries(spec, scores, points, pairs) if pairs else ():
        compared = iter(zip(pairs, differences, strict=True))
        for claim, places in found:
            margin = claim.get("margin", 0)
            judged = [
                {
                    "place": place,
                    "listed": [axis for axis in axes if axis in listed_axes(claim)],
                    "higher": points[first],
                    "lower": points[second],
                    "difference": rows[-1]["mean"],
                    "low": rows[-1]["ci_low"],
                    "high": rows[-1]["ci_high"],
                    "verdict": verdict(rows[-1]["ci_low"], rows[-1]["ci_high"], margin),
                }
                for place, ((first, second), rows) in zip(
                    places, itertools.islice(compared, len(places)), strict=True
                )
            ]
            verdicts = {pair["verdict"] for pair in judged}
            whole = next((v for v in ("does not hold", "not clear") if v in verdicts), "holds")
            claims.append(
                {
                    "text": claim["text"],
                    "llm": llm,
                    "margin": margin,
                    "verdict": whole,
                    "pairs": judged,
                }
            )
    return claims


def _summaries(
    spec: Spec, scores: pd.DataFrame, points: Sequence[Point], pairs: Sequence[tuple[int, int]]
):
    """Yield (LLM, rows of each point, rows of each pair); rows are a partition's each, AVG last."""
    llms = [llm["name"] for llm in spec["llms"]]
    labels = [point_text(point) for point in points]
    scored = set(scores["partition"])
    partitions = [name for name in spec["partitions"] if name in scored]
    named = [(labels[first], labels[second]) for first, second in pairs]
    task_mean = spec["protocol"].get("task_mean", "plain")
    table = summarise(scores, llms, labels, partitions, task_mean, named)
    if len(partitions) == 1:
        table = table[table["partition"] != AVERAGE]
    width = len(partitions) + (len(partitions) > 1)
    rows = table.to_dict("records")
    groups = [rows[start : start + width] for start in range(0, len(rows), width)]
    size = len(labels) + len(pairs)
    for i, llm in enumerate(llms):
        of_llm = groups[i * size : (i + 1) * size]
        yield llm, of_llm[: len(labels)], of_llm[len(labels) :]


def _average_rank(table: pd.DataFrame, axes: Sequence[str]) -> pd.Series:
    each = table[table["partition"] != AVERAGE]
    groups = each.groupby(["llm", *axes[:-1], "partition"])["mean"]
    ranks = each.assign(rank=groups.rank(ascending=False, method="average"))
    means = ranks.groupby(["llm", *axes])["rank"].mean().round(4)
    last = ~table.duplicated(["llm", *axes], keep="last")
    found = table.set_index(["llm", *axes]).index.map(means)
    return pd.Series(np.where(last, found, np.nan), index=table.index)


def _context_share(spec: Spec, table: pd.DataFrame) -> pd.Series:
    of_run = table[table["run"] == spec["context_share_of"]]
    longest = of_run.groupby(["llm", "partition"])["context_length"].max()
    if (longest == 0).any():
        raise UserError(
            f"studies.{spec['name']}.context_share_of: {spec['context_share_of']} reads nothing "
            "before a query; name a run that does"
        )
    whole = table.set_index(["llm", "partition"]).index.map(longest)
    return (100 * table["context_length"] / whole).round(4)
