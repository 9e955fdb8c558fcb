"""What the workflow itself costs: dry runs of everything and, with `--main-job`, the main job.

The main job runs into a temporary folder and takes as long as it takes.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIGURATIONS = ("config.yaml", "config/paper.yaml")
LONGEST_DRY_RUN = 5.0  # seconds


def dry_run(name: str) -> str:
    """Return a sentence on the dry run of a configuration."""
    began = time.perf_counter()
    output = snakemake("-n", "all", "--configfile", name, capture_output=True)
    seconds = time.perf_counter() - began
    totals = [line for line in output.splitlines() if line.startswith("total ")]
    jobs = totals[0].split()[-1] if totals else "no"
    note = (
        f"`snakemake -n all` with {name}: {seconds:.1f} s, {jobs} jobs to do "
        f"(at most {LONGEST_DRY_RUN:g} s)"
    )
    print(note, flush=True)
    return note


def parts() -> list[Callable[[], str]]:
    """Return what is to be measured, in order."""
    return [partial(dry_run, name) for name in CONFIGURATIONS]


def main_job(cores: int) -> str:
    """Run the README's first command from nothing; return a sentence on its time."""
    began, before = time.perf_counter(), processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        # The target comes first: --config takes all that follows it.
        target = f"{folder}/results/table2.csv"
        snakemake(target, "--cores", str(cores), "--config", f"results={folder}/results")
    return (
        f"{time.perf_counter() - began:.0f} s on {len(os.sched_getaffinity(0))} processors; "
        f"{processor_seconds() - before:.0f} s of processor time, all processes together"
    )


def processor_seconds() -> float:
    """Return what this process's children, and theirs, have computed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def snakemake(*arguments: str, capture_output: bool = False) -> str:
    """Run Snakemake with this Python; return what it printed. Raises RuntimeError if it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=capture_output,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"snakemake {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--main-job", action="store_true", help="run the main job, and measure it")
    parser.add_argument("--cores", type=int, default=8, help="of the main job")
    options = parser.parse_args()
    if options.main_job:
        print(main_job(options.cores))
    else:
        for part in parts():
            part()


if __name__ == "__main__":
    main()
