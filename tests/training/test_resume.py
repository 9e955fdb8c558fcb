"""Jobs that end before their time: by a signal that asks, and by one that does not.

They run on processors, where the same steps give the same bits.

MEND_KILLS=20 asks for so many kills at random moments (3 otherwise), and so many power cuts.
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
from helpers.damage import cut, empty, flip_anywhere, garbage
from helpers.jobs import changed, pretraining, write_data
from helpers.power import cut_power, record_syncs

from mend.cli import main

KILLS = int(os.environ.get("MEND_KILLS", "3"))

# Each job is forked from a process that has imported what jobs import, and done nothing else.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["mend.cli", "mend.training.job"])


def run_on_processors(arguments: list[str], disk: Path | None = None) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if disk:
        record_syncs(disk)
    sys.exit(main(arguments))


class Job:
    """A job on disk, to be run as often as it takes."""

    def __init__(self, data: Path, folder: Path, **training) -> None:
        folder.mkdir(parents=True, exist_ok=True)
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

    def start(self, disk: Path | None = None) -> multiprocessing.process.BaseProcess:
        self.log.unlink(missing_ok=True)
        process = processes.Process(target=run_on_processors, args=(self.arguments, disk))
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


def test_power_cuts_change_nothing(data: Path, tmp_path: Path, undisturbed) -> None:
    """What was not synced is lost: a checkpoint is the one before, and a result whole or absent."""
    job = Job(data, tmp_path / "job", checkpoint_every=1)
    disk = tmp_path / "disk"
    record_syncs_of(job, disk)
    draw = random.Random(0)
    cuts, lost, checkpoints = 0, 0, 0
    # Until some of them have hit a write, and some a job that has a checkpoint.
    while cuts < KILLS or not (lost and checkpoints):
        assert cuts < KILLS + 50
        process = job.start(disk)
        wait_for(lambda: job.checkpoint.exists() or job.output.exists())
        process.join(draw.uniform(0, 1))
        process.kill()
        process.join()
        cuts += 1
        lost += cut_power(job.output.parent, disk, draw)
        job.log.unlink(missing_ok=True)
        if job.output.exists():
            assert job.results() == undisturbed
            shutil.rmtree(job.output)
            shutil.rmtree(job.checkpoint.parent, ignore_errors=True)
        elif job.checkpoint.exists():
            checkpoints += 1
        record_syncs_of(job, disk)
    job.finish()
    assert job.results() == undisturbed
    assert "cannot be read" not in job.log.read_text(encoding="utf-8")


def record_syncs_of(job: Job, disk: Path) -> None:
    """After a start of the machine all that there is, is on its disk."""
    shutil.rmtree(disk, ignore_errors=True)
    process = processes.Process(target=sync_all, args=(job.output.parent, disk))
    process.start()
    process.join()


def sync_all(folder: Path, disk: Path) -> None:
    record_syncs(disk)
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize("damage", [empty, cut, flip_anywhere, garbage])
def test_a_damaged_checkpoint_costs_its_stage_alone_and_is_told_once(
    data: Path, tmp_path: Path, undisturbed, damage: Callable
) -> None:
    job = Job(data, tmp_path, checkpoint_every=10)
    process = job.start()
    wait_for(job.checkpoint.exists)
    process.kill()
    process.join()
    damage(job.checkpoint, random.Random(0))
    job.finish()
    log = job.log.read_text(encoding="utf-8")
    assert log.count("state.pt cannot be read") == 1
    assert "starts from its beginning" in log
    assert "going on from" not in log
    assert job.results() == undisturbed


def test_what_else_is_in_a_checkpoints_folder_stays(data: Path, tmp_path: Path) -> None:
    job = Job(data, tmp_path, steps=2, checkpoint_every=1)
    mine = job.checkpoint.with_name("notes.txt")
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    process = job.start()
    process.join()
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]
