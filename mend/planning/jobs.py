"""What each job of a plan reads, and what follows: its work, its memory, what it leaves on disk.

A job's settings come from its specification, as the job's own do. What a specification cannot say
without the data is assumed, and said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mend.configuration.job_specs import specification
from mend.configuration.loading import Configuration
from mend.configuration.methods import make_method
from mend.configuration.paths import JobPath, parse_settings
from mend.configuration.runs import training_shots
from mend.configuration.schema import ConfigurationValues
from mend.configuration.specs.reading import ReadingSettings
from mend.configuration.specs.run import (
    DistillerSource,
    LLMDistiller,
    LLMSource,
    MethodSource,
    RunSpec,
)
from mend.configuration.teachers import teacher_of
from mend.planning.architectures import BYTES, Architecture, find_architecture
from mend.planning.costs import QueryCosts, TokenCounts, Work, activation_bytes

#: Assumed of data that nobody has looked at: options of a row, tokens of an option, and the rows
#: of a meta-test task where `benchmark.test_rows` does not say (the published files hold whole
#: validation splits). Demonstrations are assumed to fill the longest context.
OPTIONS, ANSWER, TEST_ROWS = 3, 4, 2000
#: Of mend.training, on a GPU: the teacher's batches, and from how many steps on it compiles.
TEACHER_BATCH_SIZE, COMPILED_STEPS = 64, 1000
#: Of a corpus: documents where `benchmark.corpus.documents` does not say (C4's validation split has
#: them in eight files of 45,576), and the tokens of one.
DOCUMENTS, DOCUMENT_TOKENS = 364_608, 480


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

    def __init__(self, values: ConfigurationValues) -> None:
        """Look nothing up yet."""
        self.values = values
        self._found: dict[str, Architecture] = {}

    def __call__(self, key: str, path: str) -> Architecture:
        """Return the sizes of a model; key: where it is configured."""
        if path not in self._found:
            self._found[path] = find_architecture(self.values, key, path)
        return self._found[path]


def training_job(configuration: Configuration, models: Models, job: JobPath) -> Job:
    """Return what a training job takes."""
    spec, values = specification(configuration, str(job)), configuration.values
    training, vectors = spec.training, make_method(spec.method).context_length
    distils = bool(training.losses.distill)
    tokens = training_tokens(values, spec.reading, job.stage, training.beta, vectors, distils)
    query = _query_costs(models, spec.llm, spec.distiller, tokens, spec.method)
    micro_batch_size = training.micro_batch_size
    if micro_batch_size == "auto":
        micro_batch_size = training.batch_size
    queries = 1 if job.stage == "pretrain" else values.training.finetune.queries_per_episode
    teacher = None
    if distils:
        teacher = "cached" if teacher_of(values, job) else "runs"
    compiled = training.compile
    if compiled == "auto":
        compiled = training.steps >= COMPILED_STEPS
    work = query.training_work(micro_batch_size, teacher, queries, compiled)
    work *= training.steps * training.batch_size
    stopping = training.early_stopping
    if stopping:
        items = len(stopping.tasks) * stopping.rows_per_task
        scored = replace(query, tokens=test_tokens(values, spec, {}))
        fixed = _per_seed(values) or not make_method(spec.method).reads_demonstrations
        contexts = len(stopping.tasks) if fixed else items
        work += scored.scoring_work(contexts, items) * -(-training.steps // stopping.every)
    weights = query.trained_parameters * BYTES["float32"]
    return Job(
        llm=spec.llm.name,
        stage=job.stage,
        dtype=query.dtype,
        steps=training.steps,
        work=work,
        memory=query.training_bytes(micro_batch_size, queries, bool(stopping)),
        disk=weights,
        meanwhile=weights * (4 if stopping else 3),
        one_by_one=micro_batch_size == 1,
    )


def teacher_job(configuration: Configuration, models: Models, job: JobPath) -> Job:
    """Return what a job that keeps a teacher's states takes."""
    spec, values = specification(configuration, str(job)), configuration.values
    examples, queries = spec.teacher.examples, 1
    corpus = values.benchmark.corpus
    if job.stage == "pretrain":
        tokens = (corpus.documents or DOCUMENTS) * DOCUMENT_TOKENS
        examples = min(examples, tokens // corpus.window)
    else:
        queries = values.training.finetune.queries_per_episode
    tokens = training_tokens(values, spec.reading, job.stage, spec.teacher.beta, 0, True)
    query = _query_costs(models, spec.llm, None, tokens)
    states = query.tokens.query * query.llm.width * activation_bytes(query.dtype)
    return Job(
        llm=spec.llm.name,
        stage="teacher",
        dtype=query.dtype,
        work=query.teacher_work(TEACHER_BATCH_SIZE) * (examples * queries),
        memory=query.prediction_bytes(items=1, options=0),
        disk=examples * queries * states,
    )


def prediction_job(configuration: Configuration, models: Models, job: JobPath) -> Job:
    """Return what a prediction job takes."""
    spec, values = specification(configuration, str(job)), configuration.values
    tokens = test_tokens(values, spec, parse_settings(job.condition))
    query = _query_costs(models, spec.llm, spec.distiller, tokens, spec.method)
    tasks, seeds = len(spec.predict.tasks), len(values.benchmark.seeds)
    rows = values.benchmark.test_rows or TEST_ROWS
    if not make_method(spec.method).reads_demonstrations:
        contexts, items = 1, tasks * rows
    else:
        items = tasks * rows * seeds
        contexts = tasks * seeds if _per_seed(values) else items
    return Job(
        llm=spec.llm.name,
        stage="predict",
        dtype=query.dtype,
        work=query.scoring_work(contexts, items),
        memory=query.prediction_bytes(items / contexts, OPTIONS),
        disk=tasks * rows * seeds * 60,  # bytes of a row of predictions, measured on pocket ones
    )


def training_tokens(
    values: ConfigurationValues,
    reading: ReadingSettings,
    stage: str,
    beta: float | None,
    vectors: int | None,
    distils: bool,
) -> TokenCounts:
    """Return what one training example reads, at its longest."""
    limits, vectors = reading.longest_context, vectors or 0
    if stage == "pretrain":
        window = values.benchmark.corpus.window
        cut = int(beta * window)
        rest = window - cut
        return TokenCounts(min(cut, limits.llm), min(cut, limits.distiller), vectors, rest, rest)
    shown, query = _demonstrations(values, reading, training_shots(values))
    tokens = query + ANSWER
    return TokenCounts(*shown, vectors, tokens, tokens if distils else ANSWER)


def test_tokens(
    values: ConfigurationValues, spec: RunSpec, condition: Mapping[str, Any]
) -> TokenCounts:
    """Return what one item reads with all its options."""
    shots = condition.get("shots", values.benchmark.shots)
    (shown, distilled), query = _demonstrations(values, spec.reading, shots)
    method = make_method(spec.method)
    vectors = method.context_length or 0
    if (group := condition.get("group")) and vectors:
        groups = -(-shots // group)
        vectors *= groups
        distilled *= groups
    if not method.has_context or method.context_length == 0:
        shown = 0
    return TokenCounts(shown, distilled, vectors, query + OPTIONS * ANSWER, OPTIONS * ANSWER)


def _demonstrations(
    values: ConfigurationValues, reading: ReadingSettings, shots: int
) -> tuple[tuple[float, float], float]:
    """Return tokens of so many demonstrations, of LLM and distiller, and of one query."""
    usual, limits = values.protocol.longest_context.llm, reading.longest_context
    each = min(reading.longest_example, usual / values.benchmark.shots)
    shown = (min(limits.llm, shots * each), min(limits.distiller, shots * each))
    return shown, min(reading.longest_example - ANSWER, each)


def _query_costs(
    models: Models,
    llm: LLMSource,
    distiller: DistillerSource | None,
    tokens: TokenCounts,
    method: MethodSource | None = None,
) -> QueryCosts:
    """Return the costs of a query of a run; raises UserError if a model's sizes are unknown."""
    key = f"llms.{llm.name}"
    made = make_method(method) if method else None
    if made and made.adapts_llm:
        own = models(f"{key}.path", llm.path)
        dtype = "int8" if llm.int8 else llm.dtype
        return QueryCosts(own, own, tokens, dtype, lora_rank=made.lora_rank)
    return QueryCosts(
        models(f"{key}.path", llm.path),
        distiller_sizes(models, key, distiller) if distiller else None,
        tokens,
        "int8" if llm.int8 else llm.dtype,
        distiller.precision if distiller else "auto",
    )


def distiller_sizes(models: Models, key: str, source: LLMDistiller) -> Architecture:
    """Return the sizes of an LLM's distiller, of its chosen blocks; key: the LLM's."""
    found = models(f"{key}.distiller.path", source.path)
    return replace(found, layers=len(source.layers)) if source.layers else found


def _per_seed(values: ConfigurationValues) -> bool:
    return values.protocol.demonstrations_at_test == "per-seed"
