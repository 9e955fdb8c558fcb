"""Jobs that end before their time: by a signal that asks, and by one that does not.

They run on processors, where the same steps give the same bits.

MEND_KILLS=20 asks for so many kills at random moments (3 otherwise).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.jobs import changed, pretraining, write_data

from mend.cli import main

KILLS = int(os.environ.get("MEND_KILLS", "3"))

# Each job is forked from a process that has imported what jobs import, and done nothing else.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["mend.cli", "mend.training.job"])


def run_on_processors(arguments: list[str]) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.exit(main(arguments))


class Job:
    """A job on disk, to be run as often as it takes."""

    def __init__(self, data: Path, folder: Path, **training) -> None:
        folder.mkdir(exist_ok=True)
        spec = pretraining(data, folder, **{"steps": 60, **training})
        # Dropout draws random numbers in each step: a job must go on with the next ones.
        spec = changed(spec, objective={"llm_dropout_in_training": True})
        (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
        self.output, self.log = folder / "pretrain", folder / "log"
        self.checkpoint = folder / "pretrain.checkpoint/state.pt"
        options = {"spec": folder / "spec.json", "chunks": folder / "chunks.parquet"}
        options |= {"output": self.output, "log": self.log}
        self.arguments = ["train"]
        for name, value in options.items():
            self.arguments += [f"--{name}", str(value)]

    def start(self) -> multiprocessing.process.BaseProcess:
        self.log.unlink(missing_ok=True)
        process = processes.Process(target=run_on_processors, args=(self.arguments,))
        process.start()
        return process

    def finish(self) -> None:
        process = self.start()
        process.join()
        assert process.exitcode == 0
        assert self.output.exists()
        assert not self.checkpoint.parent.exists()

    def wait_until_training(self) -> None:
        wait_for(lambda: self.log.exists() and "training on cpu" in self.log.read_text("utf-8"))

    def results(self) -> tuple[bytes, str, list]:
        """What must not depend on how often the job was disturbed."""
        weights = (self.output / "weights.safetensors").read_bytes()
        metrics = (self.output / "metrics.jsonl").read_text(encoding="utf-8")
        record = json.loads((self.output / "record.json").read_text(encoding="utf-8"))
        assert record["seconds"] > 0
        return (
            weights,
            metrics,
            [record[key] for key in ("steps", "best_step", "examples", "flops")],
        )


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory) -> tuple[bytes, str, list]:
    job = Job(data, tmp_path_factory.mktemp("undisturbed"))
    job.finish()
    return job.results()


def test_a_time_limit_saves_first(data: Path, tmp_path: Path, undisturbed) -> None:
    job = Job(data, tmp_path, checkpoint_every=10**6)
    process = subprocess.Popen(
        [sys.executable, "-m", "mend", *job.arguments],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    job.wait_until_training()
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM after step" in said
    assert str(job.checkpoint) in said
    assert job.checkpoint.exists()
    assert not job.output.exists()
    job.finish()
    assert job.results() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_other_signals_that_ask_to_stop(data: Path, tmp_path: Path, number: int) -> None:
    job = Job(data, tmp_path, steps=10**6, checkpoint_every=10**6)
    process = job.start()
    job.wait_until_training()
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert job.checkpoint.exists()


def test_kills_at_random_moments_change_nothing(data: Path, tmp_path: Path, undisturbed) -> None:
    job = Job(data, tmp_path, checkpoint_every=1)
    began = time.monotonic()
    job.finish()
    whole = time.monotonic() - began
    assert job.results() == undisturbed

    kills, moments = 0, []
    shutil.rmtree(job.output)
    while kills < KILLS:
        process = job.start()
        if kills % 2 == 0:  # not while it loads: there are steps to lose
            wait_for(lambda: job.checkpoint.exists() or job.output.exists())
        moments.append(random.uniform(0, whole))
        process.join(moments[-1])
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:  # it was faster: once more from the beginning
            assert job.results() == undisturbed, moments
            shutil.rmtree(job.output)
    job.finish()
    assert job.results() == undisturbed, moments
