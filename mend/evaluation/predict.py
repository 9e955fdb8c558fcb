"""The prediction job: every option's score for every evaluation row of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow

from mend.atomic_io import write_parquet
from mend.data.examples import read_questions
from mend.data.template import Template
from mend.evaluation.grouping import GroupedMethod
from mend.evaluation.scoring import Question, score_questions
from mend.methods import build_method
from mend.methods.base import Method
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm
from mend.progress import Progress, logger

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
        ("gold", pyarrow.int32()),
        ("options", pyarrow.list_(pyarrow.string())),
        ("scores", pyarrow.list_(pyarrow.float64())),
    ]
)


def run_prediction(
    spec: dict, episodes: str | Path, tasks: str | Path, output: str | Path, weights: Path | None
) -> None:
    """Score the test rows that `spec` names and write them as Parquet, one row for each.

    context_length is how many positions (tokens or vectors) the LLM read before the row's query.

    spec: llm, method, protocol, predict {tasks, partition, variant, condition}; predict may also
    have perturbation (with seed, that of the draws; see `mend.data.perturbation`) and group (so
    many demonstrations are distilled at a time; see `mend.evaluation.grouping`).
    weights: the folder that a training job wrote; None for a method that trains nothing.
    Raises UserError for a group where the method does not distil or the vectors do not fit.
    """
    llm = load_llm(spec["llm"])
    method = build_method(llm, spec["method"], spec["protocol"])
    if weights:
        method.load(Path(weights) / "weights.safetensors")
    wanted = spec["predict"]
    shown: dict = {}
    if wanted.get("perturbation"):
        shown |= {"perturbation": wanted["perturbation"], "draw_seed": wanted["seed"]}
    if wanted.get("group"):
        method = GroupedMethod(method, spec["method"]["length"], spec["protocol"])
        shown["group"] = wanted["group"]
    rows, questions = questions_for(
        llm, method, spec["protocol"], episodes, tasks, "test", wanted["tasks"], **shown
    )
    if wanted.get("group"):
        method.check_groups(max(len(question.demonstrations) for question in questions))
    name = f"predict {llm_name(spec)} {wanted['partition']}"
    logger.info("%s: %d rows", name, len(rows))
    lengths: dict[int, int] = {}
    progress = Progress(name, len(rows))
    scores = score_once(llm, method, questions, spec["protocol"], progress, lengths)
    same = {
        "llm": spec["llm"]["name"],
        "method": spec["method"]["name"],
        "variant": wanted["variant"],
        "condition": wanted["condition"],
        "partition": wanted["partition"],
    }
    records = [
        {**same, **row, "context_length": lengths[question.context], "scores": values}
        for row, question, values in zip(rows, questions, scores, strict=True)
    ]
    write_parquet(pyarrow.Table.from_pylist(records, schema=PREDICTION_SCHEMA), output)


def questions_for(
    llm: FrozenLLM,
    method: Method,
    protocol: dict,
    episodes: str | Path,
    tasks: str | Path,
    split: str,
    only: Sequence[str],
    **others,
) -> tuple[list[dict], list[Question]]:
    """Read evaluation rows as `method` sees them; see `mend.data.examples.read_questions`."""
    template = Template(llm.tokenizer, protocol, llm.positions)
    return read_questions(
        episodes,
        tasks,
        split,
        template,
        method.longest_context(protocol),
        only,
        after_context=method.has_context,
        reads_demonstrations=method.reads_demonstrations,
        **others,
    )


def score_once(
    llm: FrozenLLM,
    method: Method,
    questions: Sequence[Question],
    protocol: dict,
    progress: Progress | None = None,
    context_lengths: dict[int, int] | None = None,
) -> list[list[float]]:
    """Score questions, asking only once what several seeds ask alike.

    A method that reads no demonstrations asks the same of every seed. context_lengths: see
    `mend.evaluation.scoring.score_questions`.
    """
    first: dict[tuple, int] = {}
    where = []
    different: list[Question] = []
    for question in questions:
        key = (question.context, tuple(question.query), tuple(map(tuple, question.options)))
        if key not in first:
            first[key] = len(different)
            different.append(question)
        where.append(first[key])
    scores = score_questions(
        *(llm, method, different, protocol["option_score"]),
        progress=progress,
        context_lengths=context_lengths,
    )
    return [scores[index] for index in where]


def llm_name(spec: dict) -> str:
    """Return how progress names a run: its LLM and method."""
    return f"{spec['llm']['name']} {spec['method']['name']}"
