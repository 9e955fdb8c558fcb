"""The numbers behind the paper's table 2: ours, the paper's, and the differences it claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mend.configuration.task_list import Task
from mend.errors import UserError
from mend.evaluation.metrics import scores_by_task
from mend.evaluation.prediction_table import by_partition, check_one_run_each, check_same_rows
from mend.evaluation.statistics import AVERAGE, TASK_MEANS, summarise, tasks_to_score
from mend.paper import paper_table


@dataclass(frozen=True)
class Claim:
    """The paper says that `method` - `baseline` is above `margin` points, averaged."""

    method: str
    baseline: str
    margin: float
    text: str


CLAIMS = (
    Claim("vanilla-icl", "zero-shot", 0, "Vanilla ICL is above zero-shot"),
    Claim("mend", "vanilla-icl", -2, "MEND is within 2 points of vanilla ICL, or above it"),
    Claim("mend", "hypertuning", 0, "MEND is above HyperTuning"),
    Claim("mend", "prompt-tuning", 0, "MEND is above prompt tuning"),
    Claim("vanilla-icl", "hypertuning", 0, "Vanilla ICL is above HyperTuning"),
    Claim("hypertuning", "prompt-tuning", 0, "HyperTuning is above prompt tuning"),
    Claim("prompt-tuning", "zero-shot", 0, "Prompt tuning is above zero-shot"),
    Claim("hypertuning", "zero-shot", 0, "HyperTuning is above zero-shot"),
    Claim("mend", "zero-shot", 0, "MEND is above zero-shot"),
)
"""What section 4.2 concludes from the paper's table 2; 2 points are our reading of "match"."""


@dataclass(frozen=True)
class Table2:
    """All that the page shows, before it is laid out."""

    spec: Mapping[str, Any]
    partitions: tuple[str, ...]
    numbers: pd.DataFrame
    other_mean: pd.DataFrame | None
    claims: tuple[Claim, ...]
    paper: pd.DataFrame
    records: tuple[Mapping[str, Any], ...]
    test_tasks: Mapping[str, tuple[str, ...]]
    in_both: Mapping[str, tuple[str, ...]]
    without_tasks: tuple[str, ...]
    command: str


def compute_table2(
    spec: Mapping[str, Any],
    tasks: Mapping[str, Task],
    predictions: pd.DataFrame,
    records: Sequence[Mapping[str, Any]] = (),
    command: str = "",
) -> Table2:
    """Everything on the page, from predictions that `read_predictions` returned."""
    protocol = spec["protocol"]
    wanted = tasks_to_score(spec, tasks)
    partitions = tuple(wanted)
    llms = [llm["name"] for llm in spec["llms"]]
    methods = list(spec["methods"])
    in_use = predictions[
        predictions["llm"].isin(llms)
        & predictions["method"].isin(methods)
        & predictions["task"].isin({task for names in wanted.values() for task in names})
        & predictions["seed"].isin(spec["seeds"])
    ]
    check_one_run_each(in_use)
    # Scored before rows of `all` are copied to each partition, so that each is scored once.
    types = {name: task.type for name, task in tasks.items()}
    scores = scores_by_task(in_use, types, protocol.get("metrics", "metaicl"))
    scores = by_partition(scores, llms, methods, wanted, spec["seeds"])
    check_same_rows(in_use)

    claims = tuple(c for c in CLAIMS if c.method in methods and c.baseline in methods)
    pairs = [(claim.method, claim.baseline) for claim in claims]
    task_mean = protocol.get("task_mean", "plain")
    numbers = summarise(scores, llms, methods, partitions, task_mean, pairs)
    (other,) = set(TASK_MEANS) - {task_mean}
    other_mean = summarise(scores, llms, methods, partitions, other)
    merged = other_mean.merge(numbers, on=["llm", "method", "partition"], suffixes=("", "_main"))
    same = (merged["mean"] - merged["mean_main"]).abs().max() < 0.005
    return Table2(
        spec=spec,
        partitions=partitions,
        numbers=numbers,
        other_mean=None if same else other_mean,
        claims=claims,
        paper=paper_scores(spec, partitions),
        records=tuple(records),
        test_tasks=wanted,
        in_both={
            name: tuple(t for t in wanted[name] if "train" in tasks[t].roles[name])
            for name in partitions
        },
        without_tasks=tuple(name for name in spec["partitions"] if name not in partitions),
        command=command,
    )


def paper_scores(spec: Mapping[str, Any], partitions: Sequence[str]) -> pd.DataFrame:
    """The paper's table 2 for its LLMs named in the spec: llm, method, partition, mean, std.

    The paper's average is over seven partitions. With fewer, the mean over these replaces it.
    """
    paper = paper_table("table2")
    named = {llm.get("paper_llm") for llm in spec["llms"]} - {None}
    unknown = sorted(named - set(paper["llm"]))
    if unknown:
        raise UserError(
            f"paper_llm: the paper's table 2 has no {', '.join(unknown)}; "
            f"choose {', '.join(paper['llm'].unique())}, or null"
        )
    paper = paper[paper["llm"].isin(named)]
    all_partitions = set(paper["partition"]) - {AVERAGE}
    if set(partitions) >= all_partitions:
        return paper
    paper = paper[paper["partition"].isin(partitions)]
    means = paper.groupby(["llm", "method"], as_index=False)["mean"].mean()
    return pd.concat([paper, means.assign(partition=AVERAGE)], ignore_index=True)
