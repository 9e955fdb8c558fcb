"""What was run: training runs, the time of every rule, and whether code or versions are mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mend.configuration.choices import STAGES
from mend.configuration.display_names import stage_display_name
from mend.errors import UserError
from mend.reporting.metrics import read_lines
from mend.reporting.training_costs import Record, commits, versions


def totals(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What each stage of training took, and all: name, runs, hours on CPUs and on GPUs, flops."""
    groups = {
        stage_display_name(stage): [record for record in records if record["stage"] == stage]
        for stage in STAGES
    }
    return [
        {
            "name": name,
            "runs": len(group),
            "cpu_hours": _sum(group, "seconds", gpu=False) / 3600,
            "gpu_hours": _sum(group, "seconds", gpu=True) / 3600,
            "flops": _sum(group, "flops"),
        }
        for name, group in {**groups, "Both": records}.items()
    ]


def read_benchmarks(results: str | Path) -> list[dict[str, Any]]:
    """What Snakemake measured of each job, from `benchmarks`.

    rule: its name; s: seconds; max_rss: memory in MB; folder: what it made, or would make, below
    the results.
    """
    root = Path(results, "benchmarks")
    found = []
    for file in sorted(root.rglob("*.jsonl")):
        if rows := read_lines(file):
            job = rows[-1]
            if not isinstance(job.get("s"), (int, float)):
                raise UserError(f"{file}: it does not say how long a job took (s); delete it")
            # Without `benchmark-extended` a file's name is all there is.
            job["rule"] = job.get("rule_name") or file.stem
            job["folder"] = file.relative_to(root).with_suffix("").as_posix()
            found.append(job)
    return found


def rule_times(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each rule, the longest first, and `all`: rule, jobs, seconds, longest, megabytes."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for job in jobs:
        groups.setdefault(job["rule"], []).append(job)
    rows = [
        {
            "rule": rule,
            "jobs": len(group),
            "seconds": sum(job["s"] for job in group),
            "longest": max(job["s"] for job in group),
            "megabytes": max((_number(job.get("max_rss")) for job in group), default=0),
        }
        for rule, group in {**groups, "all": jobs}.items()
        if group
    ]
    return sorted(rows, key=lambda row: (row["rule"] == "all", -row["seconds"]))


def warnings(records: Mapping[str, Record], jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on what the results mix: code, commits, versions, devices; none if all is alike.

    `records` of the training runs by their folders.
    """
    found = []
    code: dict[tuple[str, str], set[str]] = {}
    known = set()
    for job in jobs:
        if job["rule"] in ("pretrain", "finetune", "predict") and "code" in job.get("params", {}):
            method = job.get("wildcards", {}).get("method", "")
            code.setdefault((job["rule"], method), set()).add(str(job["params"]["code"]))
            known.add(job["folder"])
    mixed = sorted(f"{rule} of {method}" for (rule, method), seen in code.items() if len(seen) > 1)
    if mixed:
        found.append(f"Jobs of one kind ran with different code: {', '.join(mixed)}.")
    all_commits = commits(records.values())
    if len(all_commits) > 1:
        same = ", though what they run did not change between these"
        same = same if not mixed and known >= set(records) else ""
        found.append(f"Training runs are of {len(all_commits)} commits{same}.")
    for name, seen in versions(records.values()).items():
        if len(seen) > 1:
            found.append(f"Training runs are of different versions of {name}: {', '.join(seen)}.")
    devices = sorted({str(record.get("device")) for record in records.values()})
    if len(devices) > 1:
        found.append(f"Training runs are of different devices: {', '.join(devices)}.")
    return found


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else 0.0


def _sum(records: Sequence[Record], key: str, gpu: bool | None = None) -> float:
    return sum(
        record.get(key) or 0
        for record in records
        if gpu is None or (record.get("device") not in (None, "cpu")) == gpu
    )
