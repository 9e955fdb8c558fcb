"""The efficiency job (section 4.2, figure 3): what one query costs each method, and what many cost.

Vanilla ICL, prompt tuning and MEND with one LLM, batch size 1, and one meta-test task of each
partition; MEND's cost includes the distillation. Costs do not depend on trained weights, so none
are read. Where the paper measured the LLM too, its own setting is counted from configurations and
the paper's numbers stand beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import pyarrow
import torch
from transformers import AutoConfig, GPT2Config, PretrainedConfig

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
from mend.data.template import Template
from mend.errors import UserError
from mend.methods.built import BuiltMethod, build_method
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm
from mend.paper import paper_table
from mend.progress import Progress

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

    episodes: evaluation episodes with the demonstrations to measure. Lengths are means over rows.

    Parts, in operations, peak memory above the weights (bytes) and seconds:
      distillation, context, query: see `mend.analysis.profiling`; their sum is `total` (memory:
      the most).
      weights: memory of the parameters that the method needs.
      cached: reading the context once and `queries` queries after it, as `mend.evaluation.scoring`
      does.
      reread: distilling once and reading the context again with each query, as the paper does.
      paper: what figure 3 of the paper says of `total`.
    Rows with the device `counted` are from configurations alone, in float16, with the paper's
    lengths of demonstrations. Raises UserError if a task has no rows.
    """
    wanted = spec.efficiency
    llm = load_llm(spec.llm)
    methods = _methods(llm, spec)
    config, distiller = _configuration(spec.llm), _configuration(spec.distiller)
    records: list[dict] = []
    progress = Progress(f"efficiency {spec.llm.name}", len(wanted.tasks))
    device = torch.cuda.get_device_name(llm.device) if llm.device.type == "cuda" else "cpu"
    for done, (partition, task) in enumerate(wanted.tasks.items(), start=1):
        lengths = row_lengths(llm, spec, episodes, tasks, task)
        for name, method in methods.items():
            vectors = method.method.vectors
            made_by = distiller if name == "mend" else None
            flops = forward_flops(
                config,
                lengths,
                vectors=vectors,
                distiller=made_by,
                distiller_source=spec.distiller,
                padded_length=spec.reading.longest_context.distiller,
                query_in=spec.llm.query_in,
            )
            same = {
                "llm": spec.llm.name,
                "partition": partition,
                "task": task,
                "context_tokens": vectors or lengths.demonstrations,
                "method": name,
                "device": device,
            }
            memory, seconds = _memory_and_seconds(llm, method, lengths)
            records += [{**same, **cost} for cost in cost_records(flops, memory, seconds)]
            weights = _weight_bytes(llm.model, method)
            records.append({**same, "part": "weights", "peak_memory_bytes": weights})
        progress.update(done)
    records += paper_records(wanted.paper_llm)
    write_parquet(pyarrow.Table.from_pylist(records, schema=EFFICIENCY_SCHEMA), output)


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
            vectors=1 if reader == "distiller" else None,
        )
        if not rows:
            raise UserError(
                f"{episodes}: no rows of {task} for seed {spec.efficiency.seed}; choose one "
                "of benchmark.seeds"
            )
        found[reader] = round(mean(len(item.demonstrations) for item in items))
    answers = [len(item.options[row["gold"]]) for row, item in zip(rows, items, strict=True)]
    return Lengths(
        demonstrations=found["llm"],
        distilled=found["distiller"],
        query=max(1, round(mean(len(item.query) for item in items))),
        answer=max(1, round(mean(answers))),
    )


def cost_records(
    flops: Mapping[str, int],
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
    numbers = paper_table("figure3")
    numbers = numbers[numbers["llm"] == paper_llm]
    config, records = GPT2Config(**PAPER_LLMS[paper_llm]), []
    counted: dict[tuple, tuple] = {}
    for row in numbers.to_dict("records"):
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
            "llm": f"{paper_llm}, counted",
            "partition": row["partition"],
            "context_tokens": vectors or tokens,
            "method": name,
        }
        records += [{**same, **cost, "device": "counted"} for cost in cost_records(*counted[key])]
        records.append(
            {
                **same,
                "part": "paper",
                "queries": 1,
                "flops": row["forward_tflops"] * 1e12,
                "peak_memory_bytes": round(row["peak_memory_gb"] * 1e9),
                "seconds": row["seconds"],
                "device": "the paper's GPU",
            }
        )
    return records


def _methods(llm: FrozenLLM, spec: EfficiencySpec) -> dict[str, BuiltMethod]:
    sources = {
        "vanilla-icl": MethodSource(name="vanilla-icl"),
        "prompt-tuning": MethodSource(
            name="prompt-tuning", settings={"length": spec.efficiency.prompt_length}
        ),
        "mend": spec.method,
    }
    built = {}
    for name, source in sources.items():
        method = build_method(llm, spec.model_copy(update={"method": source}))
        built[name] = method.requires_grad_(False).eval()
    return built


def _configuration(source: LLMSource | DistillerSource) -> PretrainedConfig:
    return AutoConfig.from_pretrained(
        source.path, revision=source.revision, local_files_only=source.local_files_only
    )


def _memory_and_seconds(
    llm: FrozenLLM, method: BuiltMethod, lengths: Lengths
) -> tuple[dict[str, int], dict[str, float]]:
    tokens = lengths.distilled if method.distils else lengths.demonstrations
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
