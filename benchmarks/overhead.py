"""What the workflow costs beside the jobs' own computing.

Without options: how long dry runs of everything take. `--main-job` runs the workflow, which takes
as long as it takes, into a temporary folder, and measures the processor time of all its processes
from outside. Of that, a job's own computing is what its process uses after the interpreter has
started, without imports, to the end of the command; all else is overhead: Snakemake itself (parsing
the workflow, deciding, waiting), shells, interpreters that start and end, imports. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIGURATIONS = ("config.yaml", "config/paper.yaml")
LONGEST_DRY_RUN = 10.0  # seconds
LARGEST_OVERHEAD = 0.15  # of the main job's processor time
#: prctl's "I adopt orphaned descendants": the warm server outlives the Snakemake that started it.
PR_SET_CHILD_SUBREAPER = 36


def run() -> tuple[list[dict], list[str]]:
    """Return no rows for the table, and a sentence on the dry run of each configuration."""
    notes = []
    for name in CONFIGURATIONS:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", "all", "--configfile", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"`snakemake -n all` with {name}: {done.stdout}{done.stderr}")
        totals = [line for line in done.stdout.splitlines() if line.startswith("total ")]
        jobs = totals[0].split()[-1] if totals else "no"
        notes.append(
            f"`snakemake -n all` with {name}: {seconds:.1f} s, {jobs} jobs to do "
            f"(goal: at most {LONGEST_DRY_RUN:g} s)"
        )
        print(notes[-1], flush=True)
    return [], notes


@dataclass
class Usage:
    """Processor seconds of a workflow: in total, and of the Python processes that noted theirs.

    own: of each command, such as "train": how often it ran, and its jobs' own computing.
    """

    wall: float
    total: float
    own: dict[str, tuple[int, float]]
    job_starts: float
    job_imports: float
    snakemake: float
    warm_server: float

    def overhead(self) -> float:
        """Return the share of the processor time that is not the jobs' own computing."""
        return 1 - sum(seconds for _, seconds in self.own.values()) / self.total

    def sentences(self) -> list[str]:
        """Return it in words."""
        own = sum(seconds for _, seconds in self.own.values())
        known = self.job_starts + self.job_imports + self.snakemake + self.warm_server
        commands = sorted(self.own.items(), key=lambda item: -item[1][1])
        return [
            f"{self.wall:.0f} s on {len(os.sched_getaffinity(0))} processors; "
            f"{self.total:.1f} s of processor time, {own:.1f} s of it the jobs' own computing: "
            f"overhead {self.overhead():.1%} (goal: at most {LARGEST_OVERHEAD:.0%})",
            f"overhead, seconds of processor time: Snakemake {self.snakemake:.1f}, "
            f"imports of jobs {self.job_imports:.1f}, their interpreters' start "
            f"{self.job_starts:.1f}, the warm server {self.warm_server:.1f}, shells, waiting and "
            f"ends of processes {self.total - own - known:.1f}",
            "own computing, seconds of processor time: "
            + ", ".join(f"{name} {seconds:.1f} ({n} jobs)" for name, (n, seconds) in commands),
        ]


def measure_workflow(target: str, arguments: list[str], results: Path) -> Usage:
    """Run Snakemake and return what its processes used. Raises RuntimeError if it fails.

    target: relative to `results`, the folder for everything that is made.
    """
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise RuntimeError("this system does not let a process adopt its descendants")
    records = results / "process-records"
    records.mkdir(parents=True)
    path = os.pathsep.join(
        [str(Path(__file__).parent / "recorder"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    before, began = _used_by_children(), time.perf_counter()
    done = subprocess.run(
        # The target comes first: --configfile and --config take all that follows them.
        [sys.executable, "-m", "snakemake", str(results / target), *arguments]
        + ["--config", f"results={results}"],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": path,
            "MEND_PROCESS_RECORDS": str(records),
        },
        check=False,
    )
    wall = time.perf_counter() - began
    try:
        while True:  # a process counts once somebody has waited for it
            os.wait()
    except ChildProcessError:
        pass
    if done.returncode:
        raise RuntimeError(f"the workflow failed with exit status {done.returncode}")
    total = _used_by_children() - before
    return usage_of([json.loads(file.read_text()) for file in records.iterdir()], total, wall)


def usage_of(records: list[dict], total: float, wall: float) -> Usage:
    """Sort the notes of `recorder/sitecustomize.py` by what the processes are."""
    used = Usage(wall, total, {}, 0.0, 0.0, 0.0, 0.0)
    for record in records:
        program, *arguments = record["arguments"]
        if record["runs_command"]:
            count, seconds = used.own.get(arguments[0], (0, 0.0))
            own = record["seconds"] - record["start"] - record["imports"]
            used.own[arguments[0]] = (count + 1, seconds + own)
            used.job_starts += record["start"]
            used.job_imports += record["imports"]
        elif program.endswith("snakemake/__main__.py"):
            used.snakemake += record["seconds"]
        elif program.endswith("warm_server.py"):
            used.warm_server += record["seconds"]
    return used


def _used_by_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Measure what the options ask for; return 1 if the main job's overhead is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--main-job", action="store_true", help="run the workflow, and measure it")
    parser.add_argument("--target", default="table2.csv", help="in the folder of results")
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--configfile", type=Path, help="config.yaml if not given")
    options = parser.parse_args()
    if not options.main_job:
        run()
        return 0
    arguments = ["--cores", str(options.cores)]
    if options.configfile:
        arguments += ["--configfile", str(options.configfile.resolve())]
    with tempfile.TemporaryDirectory() as name:
        used = measure_workflow(options.target, arguments, Path(name) / "results")
    print("\n".join(used.sentences()))
    return int(used.overhead() > LARGEST_OVERHEAD)


if __name__ == "__main__":
    sys.exit(main())
