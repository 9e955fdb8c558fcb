"""The toy workflow on a cluster, with faults, and a ledger of what each job did."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from helpers.workflow import toy_workflow  # noqa: E402

TABLE = "results/table2.csv"

#: Stands before python on the jobs' PATH. Each fault happens to the first attempt of its job only.
PYTHON = r"""#!/usr/bin/env bash
if [ "$1 $2" != "-m mend" ]; then exec {python} "$@"; fi
command="$*"
place="${{SLURM_JOB_ID:-local}} ${{CUDA_VISIBLE_DEVICES:-none}}"
tell() {{ echo "$1 $place $command" >> {ledger}; }}
once() {{ mkdir "{faults}/$1" 2> /dev/null; }}
# Train until there is a checkpoint, then do nothing more.
stall() {{
    {python} "$@" &
    # SLURM asks jobs to end before it kills them: the stopped one must hear of it.
    trap "kill -CONT $!; kill -TERM $!" TERM
    until compgen -G "$output.checkpoint*" > /dev/null; do sleep 0.1; done
    kill -STOP $!
    tell stalled
    wait $!
    exit 143
}}
output=$(sed 's/.*--output \([^ ]*\).*/\1/' <<< "$command")
tell start
case "$3 ${{output#results/runs/pocket-gpt2/}}" in
    "tasks "*) if once failing; then tell failed; exit 1; fi ;;
    "train hypertuning/default/pretrain") if once orphan; then sleep 20; fi ;;
    "train mend/default/pretrain") if once time-limit; then stall "$@"; fi ;;
    "train prompt-tuning/default/class_to_class/finetune") if once cancel; then stall "$@"; fi ;;
esac
{python} "$@"
status=$?
if [ $status = 0 ]; then tell done; else tell failed; fi
exit $status
"""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: start, stalled, failed or done; a job that is killed says nothing."""

    what: str
    job: str
    gpu: str
    command: str


class Trial:
    """A copy of the workflow at a toy size in `folder`, and what its jobs did."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """Copy the workflow and put the ledger's python before the real one."""
        self.folder, self.ledger = folder / "workflow", folder / "ledger"
        self.ledger.touch()
        (folder / "faults").mkdir()
        self.folder.mkdir()
        values = toy_workflow(self.folder).values
        for method, stage in (("mend", "pretrain"), ("prompt-tuning", "finetune")):
            values["methods"][method][stage].update(steps=200, checkpoint_every=20)
        values["training"]["finetune"]["early_stopping"]["every"] = 100
        (self.folder / "toy.yaml").write_text(yaml.safe_dump(values))
        shim = folder / "bin" / "python"
        shim.parent.mkdir()
        quoted = {"python": sys.executable, "ledger": self.ledger, "faults": folder / "faults"}
        quoted = {name: shlex.quote(str(value)) for name, value in quoted.items()}
        shim.write_text(PYTHON.format(**quoted))
        shim.chmod(0o755)
        # The plugin's job step forgets SLURM_CONF: srun would look for the machine's own SLURM.
        srun = shim.with_name("srun")
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        srun.write_text(f'#!/bin/sh\n{settings} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        places = [shim.parent, ROOT / "profiles/slurm/without-accounting", os.environ["PATH"]]
        path = os.pathsep.join(map(str, places))
        offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.environment = {**os.environ, **environment, **offline, "PATH": path}
        self.output = folder / "snakemake.out"
        self.processes: list[subprocess.Popen] = []

    def snakemake(self, *arguments: str) -> subprocess.Popen:
        """Start Snakemake with the toy configuration; what it prints is added to `output`."""
        command = [sys.executable, "-m", "snakemake", *arguments, "--configfile", "toy.yaml"]
        with open(self.output, "ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def wait_for(self, process: subprocess.Popen, seconds: float) -> int:
        """Return the exit status of a process; raises TimeoutError."""
        wait_until("Snakemake's end", lambda: process.poll() is not None, seconds=seconds)
        return process.returncode

    def on_cluster(self, *arguments: str) -> subprocess.Popen:
        """Start Snakemake for table 2 with the repository's profile for SLURM."""
        return self.snakemake(
            *(TABLE, *arguments),
            *("--workflow-profile", "profiles/slurm", "--set-resources", "pretrain:runtime=1"),
            *("--set-threads", "pretrain=1", "finetune=1", "predict=1"),
            *("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"),
        )

    def entries(self, what: str = "", command: str = "") -> list[Entry]:
        """Return the ledger's lines of a kind that are about a command (a part of its text)."""
        lines = (line.split(" ", 3) for line in self.ledger.read_text().splitlines())
        found = (Entry(*line) for line in lines)
        return [entry for entry in found if what in ("", entry.what) and command in entry.command]

    def times_done(self) -> Counter[str]:
        """Return how often each command of a cluster's job was done."""
        return Counter(entry.command for entry in self.entries("done"))

    def times_done_of(self, command: str) -> int:
        """Return how often a command was done, given a part of its text."""
        return len(self.entries("done", command))

    def log(self, name: str) -> str:
        """Return the last log of a job, such as mend/default/pretrain."""
        path = self.folder / f"results/logs/runs/pocket-gpt2/{name}.log"
        return path.read_text() if path.is_file() else ""


def wait_until(
    what: str,
    happens: Callable[[], object],
    process: subprocess.Popen | None = None,
    seconds: float = 420,
) -> None:
    """Wait until something is true.

    Raises TimeoutError, naming it, if it takes longer or if the process that leads there ends.
    """
    end = time.monotonic() + seconds
    while not happens():
        if process is not None and process.poll() is not None:
            raise TimeoutError(f"Snakemake ended with {process.returncode} before: {what}")
        if time.monotonic() > end:
            raise TimeoutError(f"{seconds:.0f} s have passed, and still not: {what}")
        time.sleep(0.5)


def kill(process: subprocess.Popen) -> None:
    """Kill Snakemake and all that it started here (not its jobs), as a crash would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
