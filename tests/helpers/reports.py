"""A results folder that is small and made up, to make a report of."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from PIL import Image

from mend.configuration.display_names import method_display_name
from mend.configuration.specs.reporting import ReportPart, ReportSpec, StudySpec
from mend.reporting.claims import judged

LLM = "<script>alert(1)</script>"
NUMBERS = ["mean", "std", "ci_low", "ci_high", "tasks", "seeds", "training_seeds"]
RUN = "runs/llm/mend/default"
COSTS = {
    "context_length": 16.0,
    "context_bytes": 2048.0,
    "making_flops": 3e9,
    "reading_flops": 5e8,
}
SCORES = {
    "zero-shot": (40, 35, 45),
    "vanilla-icl": (60, 55, 65),
    "hypertuning": (45, 40, 50),
    "mend": (50, 45, 55),
}
DIFFERENCES = {
    ("vanilla-icl", "zero-shot"): (20, -1, 30),
    ("mend", "vanilla-icl"): (-10, -12, -8),
    ("mend", "hypertuning"): (5, 3, 7),
    ("vanilla-icl", "hypertuning"): (15, 10, 20),
    ("mend", "zero-shot"): (10, 8, 12),
}
"""MEND is above HyperTuning and zero-shot for sure, and below vanilla ICL for sure."""

TEXTS = {
    ("vanilla-icl", "zero-shot"): "Vanilla ICL is above zero-shot",
    ("mend", "vanilla-icl"): "MEND is within 2 points of vanilla ICL, or above it",
    ("mend", "hypertuning"): "MEND is above HyperTuning",
    ("vanilla-icl", "hypertuning"): "Vanilla ICL is above HyperTuning",
    ("mend", "zero-shot"): "MEND is above zero-shot",
}
COST_CLAIMS = [
    {
        "text": "MEND needs fewer operations than vanilla ICL",
        "quantity": "flops",
        "lower": "mend",
        "higher": "vanilla-icl",
    },
    {
        "text": "MEND needs less peak memory than vanilla ICL",
        "quantity": "peak_memory_bytes",
        "lower": "mend",
        "higher": "vanilla-icl",
    },
    {
        "text": "MEND answers in less time than vanilla ICL",
        "quantity": "seconds",
        "lower": "mend",
        "higher": "vanilla-icl",
    },
    {
        "text": "MEND is on par with prompt tuning in operations, at most half as many again",
        "quantity": "flops",
        "lower": "mend",
        "higher": "prompt-tuning",
        "times": 1.5,
    },
]


def study_of(name, runs, **changes):
    """The specification of a study on one partition."""
    return StudySpec(
        name=name,
        command="snakemake",
        benchmark="pocket",
        partitions=["class_to_class"],
        test_tasks={"class_to_class": ["boats"]},
        task_types={"boats": "multi-choice"},
        seeds=[13, 21],
        runs=[
            {
                "llm": LLM,
                "method": method,
                "variant": "default",
                "condition": "shots=16",
                "values": {"run": run},
            }
            for run, method in runs.items()
        ],
        axes=[{"name": "run", "values": list(runs)}],
        **changes,
    )


def write_study(folder, spec, table, claims):
    """Write what the job of a study writes, but for its page."""
    (folder / f"{spec.name}.spec.json").write_text(spec.model_dump_json())
    pd.DataFrame(table).to_parquet(folder / f"{spec.name}.parquet")
    details = {"claims": claims, "other_mean": []}
    (folder / f"{spec.name}.details.json").write_text(json.dumps(details))


def pair_of(higher, lower, mean, low, high, **place):
    return {
        "higher": {"run": higher},
        "lower": {"run": lower},
        "place": place,
        "listed": [],
        "mean": mean,
        "ci_low": low,
        "ci_high": high,
        "above": 1,
    }


def numbers_of(mean, low, high):
    return dict(zip(NUMBERS, (mean, 1.0, low, high, 4, 2, 1), strict=True))


def write_table2(folder):
    spec = study_of(
        "table2",
        {method_display_name(method): method for method in SCORES},
        title="Table 2",
        layout="matrix",
        llms=[{"name": LLM, "paper_llm": "gpt2-large"}],
        paper="table2",
    )
    names = {**SCORES, **{" - ".join(pair): numbers for pair, numbers in DIFFERENCES.items()}}
    table = [
        {"llm": LLM, "method": name, "partition": partition, **numbers_of(*numbers), **COSTS}
        for name, numbers in names.items()
        for partition in ("class_to_class", "AVG")
    ]
    claims = [
        judged(
            TEXTS[pair],
            LLM,
            -2 if pair == ("mend", "vanilla-icl") else 0,
            [pair_of(*map(method_display_name, pair), *numbers)],
        )
        for pair, numbers in DIFFERENCES.items()
    ]
    write_study(folder, spec, table, claims)


def write_table4(folder):
    """Table 4 with a claim of the paper at two places, and one of ours."""
    runs = {"MEND": "mend", "No pretraining": "mend"}
    spec = study_of("table4", runs, title="Table 4", llms=[{"name": LLM}])
    line = {"partition": "class_to_class", **COSTS, **numbers_of(50, 45, 55)}
    line |= dict.fromkeys(["difference", "difference_low", "difference_high"], float("nan"))
    table = [{"llm": LLM, "run": run, **line} for run in runs]
    places = {4: (5, 1, 9), 1: (-1, -2, 3)}
    pairs = [pair_of(*runs, *numbers, shots=shots) for shots, numbers in places.items()]
    texts = ("Pretraining helps", "<script>alert(2)</script>")
    write_study(folder, spec, table, [judged(text, LLM, 0, pairs) for text in texts])


def write_results(folder, **changes):
    """Write results of table 2, figure 3 and a study with claims; return the specification."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table2(folder)
    write_table4(folder)
    costs = {"vanilla-icl": 10.0, "mend": 4.0, "prompt-tuning": 2.0}
    drawn = [
        (LLM, panel, partition, method, "total", value)
        for panel in ("flops", "peak_memory_bytes")
        for partition in ("class_to_class", "qa_to_qa")
        for method, value in costs.items()
    ]
    columns = ["llm", "panel", "partition", "method", "part", "value"]
    pd.DataFrame(drawn, columns=columns).to_parquet(folder / "figure3.parquet")
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "figure3.png")
    stages = [f"{RUN}/pretrain", f"{RUN}/class_to_class/finetune"]
    for stage in stages:
        write_run(folder, stage)
    content = {
        "command": "snakemake --cores all results/report.html",
        "rulegraph_command": "snakemake --rulegraph mermaid-js results/report.html",
        "results": str(folder),
        "benchmark": "pocket",
        "corpus": "documents of a test",
        "files": ["config.yaml"],
        "preset": "default",
        "differences": [{"key": "protocol.x", "value": "</code><script>", "default": 1}],
        "parts": [
            part("table2", ["table2"]),
            part("figure3", pictures=["figure3"], commands=["snakemake figure3.png"]),
            part("mine", ["table4"], title="Mine <script>"),
        ],
        "absent": ["table3", "figure5"],
        "stages": stages,
        "study_stages": {"table2": stages},
        "cost_claims": COST_CLAIMS,
    }
    return ReportSpec(**{**content, **changes})


def part(name, tables=(), pictures=(), commands=(), title=None, studies=()):
    return ReportPart(
        name=name,
        title=title,
        tables=list(tables),
        pictures=list(pictures),
        commands=list(commands),
        studies=list(studies),
    )


def write_run(folder, place, commit="aaaa", code="1"):
    """A training run's record and metrics, and what Snakemake measured."""
    stage = place.rsplit("/", 1)[-1]
    (folder / place).mkdir(parents=True, exist_ok=True)
    record = {
        "llm": LLM,
        "method": "mend",
        "stage": stage,
        "seconds": 7200,
        "flops": 3e15,
        "device": "cpu",
        "commit": commit,
        "seed": 0,
        "versions": {"torch": "2.0"},
        "variant": "default",
        "steps": 20,
    }
    if stage == "finetune":  # records of before have none
        record["utilisation"] = 0.384
    (folder / place / "record.json").write_text(json.dumps(record))
    rows = [{"step": step, "distill": 1 / step, "gradient_norm": 1.0} for step in range(1, 21)]
    rows[-1]["dev_score"] = 50.0
    (folder / place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = folder / "benchmarks" / f"{place}.jsonl"
    benchmark.parent.mkdir(parents=True, exist_ok=True)
    job = {"rule_name": stage, "s": 90.5, "max_rss": 300.0, "params": {"code": code}}
    benchmark.write_text(json.dumps({**job, "wildcards": {"method": "mend"}}) + "\n")
