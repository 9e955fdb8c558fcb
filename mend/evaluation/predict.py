"""The prediction job: every option's score for every evaluation row of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

import pyarrow

from mend.atomic_io import read_json, write_parquet
from mend.configuration.specs.prediction import PredictionSpec
from mend.configuration.specs.run import RunSpec
from mend.data.items import MultipleChoiceItem, read_items
from mend.data.template import Template
from mend.errors import UserError
from mend.evaluation.context_costs import ContextCosts
from mend.evaluation.grouping import GroupedMethod
from mend.evaluation.scoring import score_items
from mend.methods.built import BuiltMethod, build_method
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm
from mend.progress import Progress, logger
from mend.provenance import checksums

PREDICTION_SCHEMA = pyarrow.schema(
    [
        ("llm", pyarrow.string()),
        ("method", pyarrow.string()),
        ("variant", pyarrow.string()),
        ("condition", pyarrow.string()),
        ("partition", pyarrow.string()),
        ("task", pyarrow.string()),
        ("seed", pyarrow.int32()),
        ("row", pyarrow.int32()),
        ("context_length", pyarrow.int32()),
        ("context_bytes", pyarrow.int64()),
        ("making_flops", pyarrow.float64()),
        ("reading_flops", pyarrow.float64()),
        ("query_cut", pyarrow.bool_()),
        ("demonstrations", pyarrow.int32()),
        ("demonstrations_cut", pyarrow.int32()),
        ("demonstrations_left_out", pyarrow.int32()),
        ("gold", pyarrow.int32()),
        ("options", pyarrow.list_(pyarrow.string())),
        ("scores", pyarrow.list_(pyarrow.float64())),
        ("tied", pyarrow.bool_()),
    ]
)

ANSWER_FIELDS = [
    ("output", pyarrow.string()),
    ("generated", pyarrow.string()),
    ("exact_match", pyarrow.float64()),
    ("f1", pyarrow.float64()),
    ("rouge_l", pyarrow.float64()),
]
"""What predictions have besides where a task is free-form; empty in rows with options."""

Answering = Callable[..., list[dict[str, Any]]]
"""`mend.evaluation.free_form.answered`."""


WEIGHTS = "weights.safetensors"

RunKind = TypeVar("RunKind", bound=RunSpec)


def run_prediction(
    spec: PredictionSpec,
    episodes: str | Path,
    tasks: str | Path,
    output: str | Path,
    weights: Path | None,
    answered: Answering | None = None,
) -> None:
    """Score the test rows that `spec` names and write them as Parquet, one row for each.

    context_length is how many positions (tokens or vectors) the LLM read before the row's query,
    context_bytes what the context is kept in. making_flops are the operations of making it of the
    demonstrations, reading_flops those of reading it once, with the query and all options (or the
    right answer) after it; NaN where they are not known (`mend.models.operations`). What was cut is
    as in `read_items`; tied is whether several options have the best score.

    weights: the folder that a training job, or `mend.evaluation.choice`, wrote; None for a method
    that trains nothing.
    answered: what generates and compares the answers of free-form tasks, where there are some:
    their rows have no scores, and the columns of ANSWER_FIELDS besides.
    Raises UserError for a row that gets a score that is not finite, for a group where
    the method does not distil, or as `read_items`.
    """
    spec = as_chosen(spec, weights) if weights else spec
    wanted = spec.predict
    llm = load_llm(spec.llm)
    method = build_method(llm, spec)
    if weights:
        of_partition = wanted.partition if wanted.stage == "finetune" else None
        method.load(Path(weights) / WEIGHTS, stage=wanted.stage, partition=of_partition)
    changes: dict[str, Any] = {}
    if wanted.perturbation:
        changes = {"perturbation": wanted.perturbation, "sampling_seed": wanted.seed}
    if wanted.group:
        method = GroupedMethod(method)
        changes["group"] = wanted.group
    changes["longest_answers"] = {
        task: how.longest_answer for task, how in wanted.free_form.items()
    }
    rows, items = items_for(llm, method, episodes, tasks, "test", wanted.tasks, **changes)
    name = f"predict {spec.llm.name} {spec.method.name} {wanted.partition}"
    logger.info("%s: %d rows", name, len(rows))
    answers = [[len(option) for option in item.options] for item in items]
    free = [place for place, row in enumerate(rows) if row["task"] in wanted.free_form]
    for place in free:
        answers[place] = [
            len(llm.tokenizer(rows[place]["output"], add_special_tokens=False).input_ids)
        ]
    costs = ContextCosts(llm, method, items, answers)
    chosen = sorted({*range(len(rows))} - {*free})
    scores: list[list[float]] = [[] for _ in rows]
    if chosen:
        found = score_items(
            llm,
            method,
            [items[place] for place in chosen],
            spec.scoring.option_score,
            progress=Progress(name, len(chosen)),
            when_made=costs,
        )
        for place, values in zip(chosen, found, strict=True):
            scores[place] = values
    if free:
        found = answered(
            llm,
            method,
            [items[place] for place in free],
            [wanted.free_form[rows[place]["task"]].longest_answer for place in free],
            [rows[place]["output"] for place in free],
            spec.reading.separators,
            Progress(f"{name}, answers", len(free)),
            costs,
        )
        for place, answer in zip(free, found, strict=True):
            rows[place] |= answer
    same = {
        "llm": spec.llm.name,
        "method": spec.method.name,
        "variant": wanted.variant,
        "condition": wanted.condition,
        "partition": wanted.partition,
    }
    for row, values in zip(rows, scores, strict=True):
        check_finite(values, row["task"], row["seed"], row["row"])
    records = [
        {
            **same,
            **row,
            **costs.of(place),
            "scores": values,
            "tied": bool(values) and values.count(max(values)) > 1,
        }
        for place, (row, values) in enumerate(zip(rows, scores, strict=True))
    ]
    if ties := sum(record["tied"] for record in records):
        logger.info("%s: in %d rows several options are the best; the first counts", name, ties)
    inputs = [episodes, *(Path(tasks) / f"{task}.parquet" for task in wanted.tasks)]
    inputs.append(Path(weights) / WEIGHTS if weights else None)
    schema = PREDICTION_SCHEMA
    if free:
        schema = pyarrow.schema([*schema, *starmap(pyarrow.field, ANSWER_FIELDS)])
    table = pyarrow.Table.from_pylist(records, schema=schema)
    write_parquet(table, output, checksums(inputs, output))


def check_finite(scores: Sequence[float], task: str, seed: int, row: int) -> None:
    """Raise UserError, naming the row, unless all of its options' scores are finite numbers."""
    if not all(map(math.isfinite, scores)):
        raise UserError(
            f"task {task}, seed {seed}, row {row}: an option's score is not finite "
            f"({', '.join(map(str, scores[:5]))}); the LLM's or the method's weights, or their "
            "precision (llms.NAME.dtype), cannot score this row"
        )


def as_chosen(spec: RunKind, weights: str | Path) -> RunKind:
    """Return a run's specification with the method's own settings that were chosen.

    weights: a folder that `mend.evaluation.choice` wrote; that of a training changes nothing.
    Raises UserError if its record.json is none of them.
    """
    record = Path(weights) / "record.json"
    content = read_json(record) if os.path.lexists(record) else {}
    chosen = content.get("settings", {}) if isinstance(content, dict) else None
    if not isinstance(chosen, dict):
        raise UserError(f"{record}: not the record of a training or a choice")
    own = {key: value for key, value in chosen.items() if "." not in key}
    method = spec.method.model_copy(update={"settings": {**spec.method.settings, **own}})
    return spec.model_copy(update={"method": method})


def items_for(
    llm: FrozenLLM,
    method: BuiltMethod | GroupedMethod,
    episodes: str | Path,
    tasks: str | Path,
    split: str,
    only: Sequence[str],
    **others,
) -> tuple[list[dict], list[MultipleChoiceItem]]:
    """Read evaluation rows as `method` sees them; see `mend.data.items.read_items`."""
    template = Template(llm.tokenizer, method.reading, llm.max_positions)
    return read_items(
        episodes,
        tasks,
        split,
        template,
        method.longest_context(),
        only,
        after_context=method.has_context,
        reads_demonstrations=method.reads_demonstrations,
        context_length=method.context_length,
        keeps_positions=method.keeps_positions,
        starts=bool(llm.prefix) or llm.has_start_token,
        **others,
    )
