"""The efficiency job (section 4.2, figure 3): what one query costs each method, and what many cost.

Vanilla ICL, prompt tuning and MEND with one LLM, batch size 1, and one meta-test task of each
partition, the one whose demonstrations are about as long as those that the paper measured; MEND's
cost includes the distillation. Costs do not depend on trained weights, so none are read. Where the
paper measured the LLM too, contexts of exactly its lengths are measured as well, its own setting is
counted from configurations, and the paper's numbers stand beside.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import pyarrow
import torch
from transformers import GPT2Config, PretrainedConfig

from mend.analysis.profiling import (
    PARTS,
    Lengths,
    count_flops,
    fake_models,
    forward_flops,
    measure_memory,
    measure_seconds,
    one_query,
)
from mend.atomic_io import write_parquet
from mend.configuration.specs.analysis import EfficiencySpec
from mend.configuration.specs.run import DistillerSource, LLMSource, MethodSource
from mend.data.items import read_items
from mend.data.pretrained import Pretrained
from mend.data.template import Template
from mend.errors import UserError
from mend.methods.built import BuiltMethod, build_method
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm
from mend.models.operations import ReadingOperations
from mend.paper import paper_table
from mend.progress import Progress, logger

#: Timed runs, after one that is not: the median counts.
RUNS = 9
#: Test rows whose lengths are averaged.
ROWS = 32
#: Numbers of queries of one context.
QUERIES = tuple(step * power for power in (1, 10, 100) for step in (1, 2, 5)) + (1000,)

#: What the paper's figure 3 measured: its LLMs, the distiller, and l.
PAPER_LLMS = {
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}
PAPER_VECTORS = 100
#: The paper does not say how long its queries are; a short sentence.
PAPER_QUERY = {"query": 20, "answer": 1}

EFFICIENCY_SCHEMA = pyarrow.schema(
    [
        ("llm", pyarrow.string()),
        ("partition", pyarrow.string()),
        ("task", pyarrow.string()),
        ("context_tokens", pyarrow.int32()),
        ("context_bytes", pyarrow.int64()),
        ("method", pyarrow.string()),
        ("part", pyarrow.string()),
        ("queries", pyarrow.int32()),
        ("flops", pyarrow.float64()),
        ("peak_memory_bytes", pyarrow.int64()),
        ("seconds", pyarrow.float64()),
        ("device", pyarrow.string()),
    ]
)


def measure(
    spec: EfficiencySpec, episodes: str | Path, tasks: str | Path, output: str | Path
) -> None:
    """Measure one LLM and write Parquet in long form, one row for each part of each cost.

    Measured are vanilla ICL, prompt tuning, MEND, and the methods that `spec` names besides, whose
    operations are counted by `mend.models.operations` (NaN where they are not known) instead of in
    a run. context_tokens: positions of a context; context_bytes: what it is kept in.

    episodes: evaluation episodes with the demonstrations to measure. Lengths are means over rows.
    Of each partition the task counts that `nearest_tasks` chooses.

    Parts, in operations, peak memory above the weights (bytes) and seconds:
      distillation, context, query: see `mend.analysis.profiling`; their sum is `total` (memory:
      the most).
      weights: memory of the parameters that the method needs.
      cached: reading the context once and `queries` queries after it, as `mend.evaluation.scoring`
      does.
      reread: distilling once and reading the context again with each query, as the paper does.
      paper: what figure 3 of the paper says of `total`.
    Rows without a task have the paper's lengths of demonstrations, as far as the LLM has room for
    them; of these, those with the device `counted` are from configurations alone, in float16.
    Raises UserError if a task has no rows.
    """
    wanted = spec.efficiency
    llm = load_llm(spec.llm)
    methods, counted = _methods(llm, spec), ("vanilla-icl", "prompt-tuning", "mend")
    reading = ReadingOperations(llm)
    config, distiller = _configuration(spec.llm), _configuration(spec.distiller)
    device = torch.cuda.get_device_name(llm.device) if llm.device.type == "cuda" else "cpu"

    def costs(lengths: Lengths, **same: Any) -> Iterator[dict[str, Any]]:
        for name, method in methods.items():
            tokens = lengths.distilled if method.distils else lengths.demonstrations
            with torch.no_grad():
                context = method.contexts(llm, [[0] * tokens])
            row = {**same, "method": name, "device": device}
            row |= {"context_tokens": context.lengths[0], "context_bytes": context.nbytes[0]}
            if name in counted:
                flops = forward_flops(
                    config,
                    lengths,
                    vectors=method.context_length,
                    distiller=distiller if name == "mend" else None,
                    distiller_source=spec.distiller,
                    padded_length=spec.reading.longest_context.distiller,
                    query_in=spec.llm.query_in,
                )
            else:
                whole = reading(context, 0, lengths.query, [lengths.answer])
                # With the query in the encoder, all of it is read then.
                apart = context.lengths[0] and llm.predicts_query
                before = reading(context, 0, 0, []) if apart else 0
                made = method.making_operations([0] * tokens)
                flops = dict(zip(PARTS, (made, before, whole - before), strict=True))
            memory, seconds = _memory_and_seconds(llm, method, tokens, lengths)
            yield from ({**row, **cost} for cost in cost_records(flops, memory, seconds))
            weights = _weight_bytes(llm.model, method)
            yield {**row, "part": "weights", "peak_memory_bytes": weights}

    found = {
        task: row_lengths(llm, spec, episodes, tasks, task)
        for task in dict.fromkeys(task for names in wanted.tasks.values() for task in names)
    }
    tokens = {task: lengths.demonstrations for task, lengths in found.items()}
    chosen = nearest_tasks(wanted.tasks, tokens, paper_lengths())
    at_lengths = _at_paper_lengths(llm, spec) if wanted.paper_llm in PAPER_LLMS else {}
    progress = Progress(f"efficiency {spec.llm.name}", len(chosen) + len(at_lengths))
    records: list[dict] = []
    for done, (partition, task) in enumerate(chosen.items(), start=1):
        records += costs(found[task], llm=spec.llm.name, partition=partition, task=task)
        progress.update(done)
    label = f"{spec.llm.name}, the paper's lengths"
    for done, (partition, lengths) in enumerate(at_lengths.items(), start=len(chosen) + 1):
        records += costs(lengths, llm=label, partition=partition)
        progress.update(done)
    if at_lengths:
        records += _paper_numbers(wanted.paper_llm, label)
    records += paper_records(wanted.paper_llm)
    write_parquet(pyarrow.Table.from_pylist(records, schema=EFFICIENCY_SCHEMA), output)


def paper_lengths() -> dict[str, int]:
    """Return how many tokens of demonstrations the paper measured for each partition (figure 3)."""
    numbers = paper_table("figure3")
    return dict(zip(numbers["partition"], map(int, numbers["context_tokens_icl"]), strict=True))


def nearest_tasks(
    tasks: Mapping[str, Sequence[str]], tokens: Mapping[str, int], wanted: Mapping[str, int]
) -> dict[str, str]:
    """Return a task of each partition, no two the same, so that lengths are nearest to `wanted`.

    tokens: of each task's demonstrations. The sum of the distances is the smallest; of equally
    good choices the first in the order of the tasks counts. A partition for which no task is left,
    or whose length is not in `wanted`, has the least to say; without a task it is left out.
    """

    def distance(partition: str, task: str) -> int:
        return abs(tokens[task] - wanted.get(partition, tokens[task]))

    # The best choice has one of the nearest tasks of each partition, as many as could be taken.
    candidates = [
        [*sorted(names, key=partial(distance, partition))[: len(tasks)], None]
        for partition, names in tasks.items()
    ]
    best: tuple[tuple[int, int], tuple] | None = None
    for choice in itertools.product(*candidates):
        named = [task for task in choice if task is not None]
        if len(set(named)) == len(named):
            pairs = zip(tasks, choice, strict=True)
            total = sum(distance(partition, task) for partition, task in pairs if task is not None)
            cost = (len(choice) - len(named), total)
            if best is None or cost < best[0]:
                best = cost, choice
    chosen = dict(zip(tasks, best[1], strict=True))
    for partition in (partition for partition, task in chosen.items() if task is None):
        logger.warning("figure 3: %s has no meta-test task that is not another's", partition)
    return {partition: task for partition, task in chosen.items() if task is not None}


def _at_paper_lengths(llm: FrozenLLM, spec: EfficiencySpec) -> dict[str, Lengths]:
    """Return the paper's lengths of each partition, as far as LLM and distiller read so much."""
    room = llm.max_positions - PAPER_QUERY["query"] - PAPER_QUERY["answer"]
    limits = spec.reading.longest_context
    return {
        partition: Lengths(demonstrations=tokens, distilled=tokens, **PAPER_QUERY)
        for partition, tokens in paper_lengths().items()
        if partition in spec.efficiency.tasks and tokens <= min(room, limits.llm, limits.distiller)
    }


def row_lengths(
    llm: FrozenLLM, spec: EfficiencySpec, episodes: str | Path, tasks: str | Path, task: str
) -> Lengths:
    """Return the mean lengths, in tokens, of a task's demonstrations, queries and right answers."""
    template = Template(llm.tokenizer, spec.reading, llm.max_positions)
    found = {}
    for reader, limit in spec.reading.longest_context:
        rows, items = read_items(
            episodes,
            tasks,
            "test",
            template,
            limit,
            [task],
            seeds=[spec.efficiency.seed],
            rows_per_task=ROWS,
            context_length=1 if reader == "distiller" else None,
        )
        if not rows:
            raise UserError(
                f"{episodes}: no rows of {task} for seed {spec.efficiency.seed}; choose one "
                "of benchmark.seeds"
            )
        found[reader] = round(mean(len(item.kept_demonstrations()) for item in items))
    answers = [len(item.options[row["gold"]]) for row, item in zip(rows, items, strict=True)]
    return Lengths(
        demonstrations=found["llm"],
        distilled=found["distiller"],
        query=max(1, round(mean(len(item.query) for item in items))),
        answer=max(1, round(mean(answers))),
    )


def cost_records(
    flops: Mapping[str, float],
    memory: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the parts of one query's cost, their total, and the cost of many queries."""
    memory = memory or {}
    times = seconds or {}
    for part in PARTS:
        yield {
            "part": part,
            "queries": 1,
            "flops": flops[part],
            "peak_memory_bytes": memory.get(part),
            "seconds": times.get(part),
        }
    yield {
        "part": "total",
        "queries": 1,
        "flops": sum(flops.values()),
        "peak_memory_bytes": max(memory.values(), default=None),
        "seconds": sum(times.values()) if times else None,
    }
    for queries in QUERIES:
        for part, readings in (("cached", 1), ("reread", queries)):
            times_each = {"distillation": 1, "context": readings, "query": queries}
            yield {
                "part": part,
                "queries": queries,
                **{
                    name: sum(times_each[key] * value for key, value in values.items())
                    for name, values in (("flops", flops), ("seconds", times))
                    if values
                },
            }


def paper_records(paper_llm: str | None) -> list[dict[str, Any]]:
    """Count the paper's setting from configurations, and return it with figure 3's numbers.

    One right answer is read. The paper's operations are several times as many: for GPT-2 large on
    Class they are, within 4 per cent, those of three options, each read with the whole context and
    with logits at all positions, and one distillation (a test says so).
    """
    if paper_llm not in PAPER_LLMS:
        return []
    config, records = GPT2Config(**PAPER_LLMS[paper_llm]), []
    counted: dict[tuple, tuple] = {}
    label = f"{paper_llm}, counted"
    for row in _paper_rows(paper_llm):
        tokens, name = int(row["context_tokens_icl"]), row["method"]
        lengths = Lengths(demonstrations=tokens, distilled=tokens, **PAPER_QUERY)
        vectors = None if name == "vanilla-icl" else PAPER_VECTORS
        key = (name, None if name == "prompt-tuning" else tokens)
        if key not in counted:
            distiller = GPT2Config() if name == "mend" else None
            setting = {"vectors": vectors, "distiller": distiller, "dtype": torch.float16}
            with fake_models(config, lengths, **setting) as run:
                counted[key] = count_flops(run), measure_memory(run, torch.device("cpu"))
        same = {
            "llm": label,
            "partition": row["partition"],
            "context_tokens": vectors or tokens,
            "method": name,
        }
        records += [{**same, **cost, "device": "counted"} for cost in cost_records(*counted[key])]
    return records + _paper_numbers(paper_llm, label)


def _paper_numbers(paper_llm: str, label: str) -> list[dict[str, Any]]:
    """Return what figure 3 prints of an LLM, under the name of what it stands beside."""
    return [
        {
            "llm": label,
            "partition": row["partition"],
            "context_tokens": row["context_tokens_icl"]
            if row["method"] == "vanilla-icl"
            else PAPER_VECTORS,
            "method": row["method"],
            "part": "paper",
            "queries": 1,
            "flops": row["forward_tflops"] * 1e12,
            "peak_memory_bytes": round(row["peak_memory_gb"] * 1e9),
            "seconds": row["seconds"],
            "device": "the paper's GPU",
        }
        for row in _paper_rows(paper_llm)
    ]


def _paper_rows(paper_llm: str) -> list[dict[str, Any]]:
    numbers = paper_table("figure3")
    return numbers[numbers["llm"] == paper_llm].to_dict("records")


def _methods(llm: FrozenLLM, spec: EfficiencySpec) -> dict[str, BuiltMethod]:
    sources = {
        "vanilla-icl": MethodSource(name="vanilla-icl"),
        "prompt-tuning": MethodSource(
            name="prompt-tuning", settings={"length": spec.efficiency.prompt_length}
        ),
        "mend": spec.method,
        **{source.name: source for source in spec.efficiency.methods},
    }
    built = {}
    for name, source in sources.items():
        method = build_method(llm, spec.model_copy(update={"method": source}))
        built[name] = method.requires_grad_(False).eval()
    return built


def _configuration(source: LLMSource | DistillerSource) -> PretrainedConfig:
    return Pretrained(source.path, source.revision, source.local_files_only).config()


def _memory_and_seconds(
    llm: FrozenLLM, method: BuiltMethod, tokens: int, lengths: Lengths
) -> tuple[dict[str, int], dict[str, float]]:
    run = partial(one_query, llm, partial(method.contexts, llm), tokens, lengths)
    measure_seconds(run, llm.device)  # to warm up: the first run allocates what later ones reuse
    memory = measure_memory(run, llm.device)
    runs = [measure_seconds(run, llm.device) for _ in range(RUNS)]
    return memory, {part: median(times[part] for times in runs) for part in PARTS}


def _weight_bytes(*modules: torch.nn.Module) -> int:
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(storages.values())
