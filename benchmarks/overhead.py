"""What the workflow costs beside the computing: dry runs, and overhead of a finished main job."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(results: Path = ROOT / "results") -> list[str]:
    """Return a sentence for each: dry runs of everything, and the share of overhead if known."""
    notes = []
    for name in ("config.yaml", "config/paper.yaml"):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", "all", "--configfile", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - began
        jobs = next(
            (line.split()[-1] for line in done.stdout.splitlines() if line.startswith("total ")),
            "no",
        )
        notes.append(f"`snakemake -n all` with {name}: {seconds:.1f} s, {jobs} jobs to do")
    notes += beside_training(results)
    for note in notes:
        print(note)
    return notes


def beside_training(results: Path) -> list[str]:
    """Return what share of the jobs' processor time was not their own training."""
    spent = 0.0
    for file in (results / "benchmarks").glob("runs/**/*.jsonl"):
        spent += json.loads(file.read_text(encoding="utf-8").splitlines()[-1])["s"]
    records = [json.loads(file.read_text()) for file in results.glob("runs/**/record.json")]
    if not spent or not records:
        return []
    trained = sum(record["seconds"] for record in records)
    return [
        f"jobs of runs took {spent:.0f} s, their training loops {trained:.0f} s of it; the rest is "
        "prediction, imports, and reading and writing"
    ]


if __name__ == "__main__":
    run()
