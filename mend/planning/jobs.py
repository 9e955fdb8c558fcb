"""What each job of a plan reads, and what follows: its work, its memory, what it leaves on disk.

A job's settings come from its specification, as the job's own do. What a specification cannot say
without the data is assumed, and said here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mend.configuration.checks import METHODS
from mend.configuration.job_specs import specification
from mend.configuration.loading import Configuration
from mend.configuration.runs import parse_settings
from mend.configuration.teachers import teacher_path
from mend.planning.architectures import BYTES, Architecture, find_architecture
from mend.planning.costs import QueryCosts, TokenCounts, Work, activation_bytes

#: Assumed of data that nobody has looked at: options of a row, tokens of an option, and the rows
#: of a meta-test task where `benchmark.test_rows` does not say (the published files hold whole
#: validation splits), and the tokens of a corpus (C4's validation split has 45,576 documents of
#: some 480). Demonstrations are assumed to fill the longest context.
OPTIONS, ANSWER, TEST_ROWS, CORPUS_TOKENS = 3, 4, 2000, 22e6


@dataclass(frozen=True)
class Job:
    """One job: its LLM and stage, and what it takes.

    steps: of training, if it is never stopped early; memory: bytes on the device at the most; disk:
    bytes that stay; meanwhile: bytes of its checkpoint while it runs.
    """

    llm: str
    stage: str
    dtype: str
    work: Work
    memory: float
    disk: float
    steps: int = 0
    meanwhile: float = 0.0
    one_by_one: bool = False


class Models:
    """The sizes of a configuration's models, each found once."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Look nothing up yet."""
        self.values = values
        self._found: dict[str, Architecture] = {}

    def __call__(self, key: str, path: str) -> Architecture:
        """Return the sizes of a model; key: where it is configured."""
        if path not in self._found:
            self._found[path] = find_architecture(self.values, key, path)
        return self._found[path]


def training_job(configuration: Configuration, models: Models, path: str) -> Job:
    """Return a job that trains; path: of its specification, such as runs/LLM/.../pretrain."""
    spec = specification(configuration, path)
    training = spec["training"]
    query = _query_costs(models, spec, training_tokens(configuration, spec))
    micro_batch_size = training.get("micro_batch_size") or training["batch_size"]
    queries = 1
    if training["stage"] == "finetune":
        queries = configuration["training"]["finetune"]["queries_per_episode"]
    teacher = None
    if training["losses"].get("distill"):
        teacher = "cached" if teacher_of(configuration, path) else "runs"
    work = query.training_work(micro_batch_size, teacher)
    work *= training["steps"] * training["batch_size"] * queries
    stopping = training["early_stopping"]
    if stopping:
        items = len(stopping["tasks"]) * stopping["rows_per_task"]
        scored = replace(query, tokens=test_tokens(configuration, spec, {}))
        fixed = _per_seed(configuration) or not _reads_demonstrations(spec["method"]["name"])
        contexts = len(stopping["tasks"]) if fixed else items
        times = training["steps"] // stopping["every"]
        work += scored.scoring_work(contexts, items) * times
    weights = query.trained_parameters * BYTES["float32"]
    return Job(
        llm=spec["llm"]["name"],
        stage=training["stage"],
        dtype=query.dtype,
        steps=training["steps"],
        work=work,
        memory=query.training_bytes(micro_batch_size, bool(stopping), teacher),
        disk=weights,
        meanwhile=weights * (4 if stopping else 3),
        one_by_one=micro_batch_size == 1,
    )


def teacher_of(configuration: Configuration, path: str) -> str | None:
    """Return where a training job finds its teacher's states; path: its own, runs/LLM/..."""
    _, llm, method, variant, *partition, stage = path.split("/")
    return teacher_path(configuration.values, llm, method, variant, stage, *partition)


def teacher_job(configuration: Configuration, models: Models, path: str) -> Job:
    """Return a job that keeps the teacher's states; path: of its specification, data/teacher/..."""
    spec = specification(configuration, path)
    wanted = spec["teacher"]
    examples, queries = wanted["examples"], 1
    corpus = configuration["benchmark"]["corpus"]
    if wanted["stage"] == "pretrain":
        examples = min(examples, corpus.get("documents") or CORPUS_TOKENS // corpus["window"])
    else:
        queries = configuration["training"]["finetune"]["queries_per_episode"]
    method = {"length": 0, "distiller": None}
    told = {**spec, "method": method, "training": {**wanted, "losses": {"distill": 1.0}}}
    query = _query_costs(models, told, training_tokens(configuration, told))
    states = query.tokens.query * query.llm.width * activation_bytes(query.dtype)
    return Job(
        llm=spec["llm"]["name"],
        stage="teacher",
        dtype=query.dtype,
        work=query.teacher_work(micro_batch_size=16) * (examples * queries),
        memory=query.prediction_bytes(items=1, options=0),
        disk=examples * queries * states,
    )


def prediction_job(configuration: Configuration, models: Models, path: str) -> Job:
    """Return a job that predicts; path: of its specification, runs/LLM/.../predict."""
    spec = specification(configuration, path)
    condition = parse_settings(spec["predict"]["condition"])
    query = _query_costs(models, spec, test_tokens(configuration, spec, condition))
    benchmark = configuration["benchmark"]
    tasks, seeds = len(spec["predict"]["tasks"]), len(benchmark["seeds"])
    rows = benchmark.get("test_rows") or TEST_ROWS
    if not _reads_demonstrations(spec["method"]["name"]):
        contexts, items = 1, tasks * rows
    else:
        items = tasks * rows * seeds
        contexts = tasks * seeds if _per_seed(configuration) else items
    return Job(
        llm=spec["llm"]["name"],
        stage="predict",
        dtype=query.dtype,
        work=query.scoring_work(contexts, items),
        memory=query.prediction_bytes(items / contexts, OPTIONS),
        disk=tasks * rows * seeds * 60,  # bytes of a row of predictions, measured on pocket ones
    )


def training_tokens(configuration: Configuration, spec: Mapping[str, Any]) -> TokenCounts:
    """Return what one training example reads, at its longest."""
    training, limits = spec["training"], spec["protocol"]["longest_context"]
    vectors = spec["method"]["length"]
    if training["stage"] == "pretrain":
        window = configuration["benchmark"]["corpus"]["window"]
        cut = int(training["beta"] * window)
        rest = window - cut
        return TokenCounts(
            min(cut, limits["llm"]), min(cut, limits["distiller"]), vectors, rest, rest
        )
    shown, query = _demonstrations(configuration, spec, configuration["benchmark"]["shots"])
    tokens = query + ANSWER
    distils = training["losses"].get("distill")
    return TokenCounts(*shown, vectors, tokens, tokens if distils else ANSWER)


def test_tokens(
    configuration: Configuration, spec: Mapping[str, Any], condition: Mapping[str, Any]
) -> TokenCounts:
    """Return what one item reads with all its options."""
    shots = condition.get("shots", configuration["benchmark"]["shots"])
    (shown, distilled), query = _demonstrations(configuration, spec, shots)
    vectors = spec["method"]["length"] or 0
    if (group := condition.get("group")) and vectors:
        groups = -(-shots // group)
        vectors *= groups
        distilled *= groups
    if _has_no_context(spec["method"]["name"]):
        shown = 0
    return TokenCounts(shown, distilled, vectors, query + OPTIONS * ANSWER, OPTIONS * ANSWER)


def _demonstrations(
    configuration: Configuration, spec: Mapping[str, Any], shots: int
) -> tuple[tuple[float, float], float]:
    """Return tokens of so many demonstrations, of LLM and distiller, and of one query."""
    limits = spec["protocol"]["longest_context"]
    usual = configuration["protocol"]["longest_context"]["llm"]
    longest = spec["protocol"]["longest_example"]
    each = min(longest, usual / configuration["benchmark"]["shots"])
    shown = tuple(min(limits[name], shots * each) for name in ("llm", "distiller"))
    return shown, min(longest - ANSWER, each)


def _query_costs(models: Models, spec: Mapping[str, Any], tokens: TokenCounts) -> QueryCosts:
    """Return the costs of a query of a run; raises UserError if a model's sizes are unknown."""
    source, distiller = spec["llm"], spec["method"]["distiller"]
    key = f"llms.{source['name']}"
    return QueryCosts(
        models(f"{key}.path", source["path"]),
        models(f"{key}.distiller.path", distiller["path"]) if distiller else None,
        tokens,
        "int8" if source.get("int8") else source["dtype"],
    )


def _per_seed(configuration: Configuration) -> bool:
    return configuration["protocol"]["demonstrations_at_test"] == "per-seed"


def _reads_demonstrations(method: str) -> bool:
    return _class_attributes(method).get("reads_demonstrations", True)


def _has_no_context(method: str) -> bool:
    return not _class_attributes(method).get("has_context", True)


@lru_cache
def _class_attributes(method: str) -> Mapping[str, Any]:
    """Return the constants that a method's class sets, read without importing it (and torch)."""
    tree = ast.parse((METHODS / f"{method.replace('-', '_')}.py").read_text(encoding="utf-8"))
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    lines = (line for node in classes for line in node.body if isinstance(line, ast.Assign))
    return {
        line.targets[0].id: line.value.value
        for line in lines
        if isinstance(line.targets[0], ast.Name) and isinstance(line.value, ast.Constant)
    }
