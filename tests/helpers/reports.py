"""A results folder that is small and made up, to make a report of."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from PIL import Image

LLM = "<script>alert(1)</script>"
PAGE = "<!doctype html><html><body><main>\n<h1>{}</h1><p>its numbers</p>\n</main></body></html>"
COLUMNS = ["llm", "method", "partition", "mean", "std", "ci_low", "ci_high", "tasks", "seeds"]
RUN = "runs/llm/mend/default"


def table2_rows(partition):
    """MEND is above HyperTuning and zero-shot for sure, and below vanilla ICL for sure."""
    rows = {
        "zero-shot": (40, 35, 45),
        "vanilla-icl": (60, 55, 65),
        "hypertuning": (45, 40, 50),
        "mend": (50, 45, 55),
        "mend - vanilla-icl": (-10, -12, -8),
        "mend - hypertuning": (5, 3, 7),
        "vanilla-icl - hypertuning": (15, 10, 20),
        "vanilla-icl - zero-shot": (20, -1, 30),
        "mend - zero-shot": (10, 8, 12),
    }
    return [
        (LLM, name, partition, m, 1.0, low, high, 4, 2) for name, (m, low, high) in rows.items()
    ]


def write_results(folder, **changes):
    """Write results of table 2, figure 3 and a study with claims; return the specification."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "llms": [{"name": LLM, "paper_llm": "gpt2-large"}],
        "methods": ["zero-shot", "vanilla-icl", "hypertuning", "mend"],
        "partitions": ["class_to_class"],
        "seeds": [13, 21],
    }
    (folder / "table2.spec.json").write_text(json.dumps(spec))
    rows = [row for name in ("class_to_class", "AVG") for row in table2_rows(name)]
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(folder / "table2.parquet")
    write_study(folder)
    for name in ("table2", "table4"):
        (folder / f"{name}.html").write_text(PAGE.format(name))
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
    for stage in ("pretrain", "class_to_class/finetune"):
        write_run(folder, f"{RUN}/{stage}")
    return {
        "command": "snakemake --cores all results/report.html",
        "results": str(folder),
        "benchmark": "pocket",
        "files": ["config.yaml"],
        "preset": "default",
        "differences": [{"key": "protocol.x", "value": "</code><script>", "default": 1}],
        "parts": [
            part("table2", ["table2"]),
            part("figure3", pictures=["figure3"], commands=["snakemake figure3.png"]),
            part("mine", ["table4"], title="Mine <script>"),
        ],
        "absent": ["table3", "figure5"],
        "runs": [f"{RUN}/pretrain", f"{RUN}/class_to_class/finetune"],
        "rules": [
            {"rule": "tasks", "jobs": 1, "after": [], "result": False},
            {"rule": "table1", "jobs": 12, "after": ["tasks"], "result": True},
            {"rule": "report_page", "jobs": 1, "after": ["tasks", "table1"], "result": True},
        ],
        **changes,
    }


def part(name, tables=(), pictures=(), commands=(), title=None, studies=()):
    return {
        **{"name": name, "title": title, "tables": list(tables)},
        **{"pictures": list(pictures), "commands": list(commands), "studies": list(studies)},
    }


def write_study(folder):
    """Table 4 with a claim of the paper at two partitions, and one of ours."""
    spec = {
        **{"name": "table4", "title": "Table 4", "llms": [{"name": LLM, "paper_llm": None}]},
        **{"axes": [{"name": "run", "values": ["MEND", "No pretraining"]}], "paper": None},
    }
    (folder / "table4.spec.json").write_text(json.dumps(spec))
    rows = [(LLM, run, "class_to_class", 50.0) for run in ("MEND", "No pretraining")]
    pd.DataFrame(rows, columns=["llm", "run", "partition", "mean"]).to_parquet(
        folder / "table4.parquet"
    )
    sides = {"higher": {"run": "MEND"}, "lower": {"run": "No pretraining"}}
    pairs = [
        {
            **sides,
            "place": {"shots": 4},
            "listed": [],
            "difference": 5,
            "low": 1,
            "high": 9,
            "verdict": "holds",
        },
        {
            **{
                **sides,
                "place": {"shots": 1},
                "listed": [],
                "difference": -1,
                "low": -2,
                "high": 3,
            },
            "verdict": "not clear",
        },
    ]
    claims = [
        {"text": text, "llm": LLM, "margin": 0, "verdict": "not clear", "pairs": pairs}
        for text in ("Pretraining helps", "<script>alert(2)</script>")
    ]
    (folder / "table4.claims.json").write_text(json.dumps(claims))


def write_run(folder, place, commit="aaaa", code="1"):
    """A training run's record and metrics, and what Snakemake measured."""
    stage = place.rsplit("/", 1)[-1]
    (folder / place).mkdir(parents=True, exist_ok=True)
    record = {
        **{"llm": LLM, "method": "mend", "stage": stage, "seconds": 7200, "flops": 3e15},
        **{"device": "cpu", "commit": commit, "seed": 0, "versions": {"torch": "2.0"}},
        **{"variant": "default", "steps": 20},
    }
    (folder / place / "record.json").write_text(json.dumps(record))
    rows = [{"step": step, "distill": 1 / step, "gradient_norm": 1.0} for step in range(1, 21)]
    rows[-1]["dev_score"] = 50.0
    (folder / place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = folder / "benchmarks" / f"{place}.jsonl"
    benchmark.parent.mkdir(parents=True, exist_ok=True)
    job = {"rule_name": stage, "s": 90.5, "max_rss": 300.0, "params": {"code": code}}
    benchmark.write_text(json.dumps({**job, "wildcards": {"method": "mend"}}) + "\n")
