"""Jobs that are forked from a process which has imported what they import."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from jobs import pretraining, write_data
from models import PROTOCOL

from mend import warm

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs start warm on Linux alone")

# What Snakemake does, in a process that a test may kill.
OWNER = """
import os, sys
from mend import warm
server = warm.start_server([sys.argv[1]])
print(server.pid, os.environ[warm.SOCKET], flush=True)
sys.stdin.read()
"""


@dataclass
class Owner:
    """A process that has started a server."""

    process: subprocess.Popen
    server: psutil.Process
    socket: Path

    def end(self, kill: bool = False) -> None:
        """End the process, and wait for the server to end as well."""
        if kill:
            self.process.kill()
        else:
            self.process.stdin.close()
        self.process.wait()
        wait_for(lambda: has_ended(self.server))


@dataclass
class Job:
    """A training job of tiny models, with paths relative to its folder."""

    folder: Path
    environment: dict[str, str]

    def start(self, owner: Owner | None, **others) -> subprocess.Popen:
        environment = dict(self.environment)
        if owner:
            environment[warm.SOCKET] = str(owner.socket)
        arguments = ["--spec", "spec.json", "--chunks", "chunks.parquet", "--output", "pretrain"]
        return subprocess.Popen(
            [sys.executable, "-m", "mend", "train", *arguments, "--log", "log"],
            cwd=self.folder,
            env=environment | others.pop("env", {}),
            stderr=subprocess.PIPE,
            text=True,
            **others,
        )

    def wait_until_training(self) -> None:
        log = self.folder / "log"
        wait_for(lambda: log.exists() and "training on cpu" in log.read_text("utf-8"))

    @property
    def results(self) -> tuple[bytes, str]:
        output = self.folder / "pretrain"
        return (output / "weights.safetensors").read_bytes(), (output / "metrics.jsonl").read_text()

    def has_saved(self) -> bool:
        """Whether it was stopped in order: with a checkpoint, and with no output."""
        stopped = "stopped by SIGTERM after step" in (self.folder / "log").read_text("utf-8")
        saved = (self.folder / "pretrain.checkpoint/state.pt").exists()
        return stopped and saved and not (self.folder / "pretrain").exists()


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def has_ended(process: psutil.Process) -> bool:
    # One whose parent has died may wait for long to be collected.
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start_owner(job: Job) -> Owner:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(job.folder / "llm")],
        cwd=job.folder,
        env=job.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid, path = process.stdout.readline().split()
    return Owner(process, psutil.Process(int(pid)), Path(path))


def copied_package(folder: Path) -> str:
    ignored = shutil.ignore_patterns("__pycache__", "models")
    shutil.copytree(ROOT / "mend", folder / "mend", ignore=ignored)
    return str(folder)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """What processes of these tests see: a copy of the package, which nobody edits meanwhile."""
    # pytest changes its variable from test to test, and a job must not differ from its server.
    others = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return others | {"PYTHONPATH": copied_package(tmp_path_factory.mktemp("code"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def make_job(data: Path, environment: dict[str, str], tmp_path_factory) -> Callable[..., Job]:
    def make(**training) -> Job:
        folder = tmp_path_factory.mktemp("job")
        spec = pretraining(data, folder, **training)
        # Dropout draws random numbers in each step.
        spec["protocol"] = PROTOCOL | {"llm_dropout_in_training": True}
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        return Job(folder, environment)

    return make


@pytest.fixture
def endless_job(make_job) -> Job:
    """A job that ends when it is told to, and then saves."""
    return make_job(steps=10**6, checkpoint_every=10**6)


@pytest.fixture(scope="module")
def owner(make_job) -> Iterator[Owner]:
    owner = start_owner(make_job())
    yield owner
    owner.end()


def test_warm_and_cold_jobs_make_the_same_bits(make_job, owner: Owner) -> None:
    jobs = [make_job(steps=6), make_job(steps=6)]
    started = [job.start(owner, umask=0o027) for job in jobs]  # two that wait for its imports
    cold = make_job(steps=6)
    started.append(cold.start(None))
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert ["started warm" in text for text in said] == [True, True, False]
    assert all("s of processor time" in text for text in said)
    assert jobs[0].results == jobs[1].results == cold.results
    assert (jobs[0].folder / "log").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_child(endless_job: Job, owner: Owner, number: int) -> None:
    process = endless_job.start(owner)
    endless_job.wait_until_training()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {signal.Signals(number).name} after step" in said
    assert (endless_job.folder / "pretrain.checkpoint/state.pt").exists()


def test_a_child_that_is_killed_is_seen_as_killed(endless_job: Job, owner: Owner) -> None:
    process = endless_job.start(owner)
    endless_job.wait_until_training()
    (child,) = owner.server.children()
    child.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_a_child_ends_with_its_client(endless_job: Job, owner: Owner) -> None:
    process = endless_job.start(owner)
    endless_job.wait_until_training()
    (child,) = owner.server.children()
    process.kill()
    process.wait()
    wait_for(lambda: has_ended(child))
    assert endless_job.has_saved()


@pytest.mark.parametrize("kill", [False, True])
def test_server_and_children_end_with_the_owner(endless_job: Job, kill: bool) -> None:
    owner = start_owner(endless_job)
    process = endless_job.start(owner)
    endless_job.wait_until_training()
    owner.end(kill)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert endless_job.has_saved()
    assert not owner.socket.parent.exists()


def test_a_child_ends_with_a_server_that_is_killed(endless_job: Job) -> None:
    owner = start_owner(endless_job)
    process = endless_job.start(owner)
    endless_job.wait_until_training()
    (child,) = owner.server.children()
    owner.server.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "forked from has ended" in said
    wait_for(lambda: has_ended(child))
    assert endless_job.has_saved()
    owner.end()
    assert not owner.socket.parent.exists()


def test_without_a_server_that_fits_a_command_runs_where_it_is(
    owner: Owner, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.delenv(warm.SOCKET, raising=False)
    assert warm.run_warm(["train"]) is None
    monkeypatch.setenv(warm.SOCKET, str(tmp_path / "nobody"))
    assert warm.run_warm(["train"]) is None
    monkeypatch.setenv(warm.SOCKET, str(owner.socket))
    assert warm.run_warm(["table1"]) is None
    assert capsys.readouterr().err == ""
    assert warm.run_warm(["train"]) is None  # its code is a copy's, and not ours
    assert "not started warm: the code has changed" in capsys.readouterr().err
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        monkeypatch.setenv(warm.SOCKET, str(tmp_path / "silent"))
        monkeypatch.setattr(warm, "LONGEST_WAIT", 0.01)
        assert warm.run_warm(["train"]) is None


def test_an_edited_file_is_the_one_that_runs(make_job, tmp_path: Path) -> None:
    jobs = [make_job(), make_job()]
    for job in jobs:
        job.environment = job.environment | {"PYTHONPATH": str(tmp_path)}
    copied_package(tmp_path)
    owner = start_owner(jobs[0])
    first = jobs[0].start(owner).communicate(timeout=60)[1]
    with open(tmp_path / "mend/training_job.py", "a", encoding="utf-8") as file:
        file.write("\nlogger.warning('edited')\n")
    second = jobs[1].start(owner).communicate(timeout=60)[1]
    assert "started warm" in first
    assert "edited" not in first
    assert "not started warm: the code has changed" in second
    assert "edited" in second
    owner.end()
