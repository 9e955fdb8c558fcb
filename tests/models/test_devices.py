"""Jobs on one machine take different GPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from mend.errors import UserError
from mend.models import devices

NAMES = ["GPU-a", "GPU-b"]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["mend.cli", "mend.training.job"])


def start(target, *arguments) -> multiprocessing.process.BaseProcess:
    process = processes.Process(target=target, args=arguments)
    process.start()
    return process


def work(folder: Path) -> None:
    """Take a device, and fail if another process works on it."""
    index = devices.take_free(NAMES, folder, every=0.005)
    busy = folder / f"{NAMES[index]}.busy"
    busy.touch(exist_ok=False)
    time.sleep(0.05)
    busy.unlink()
    (folder / f"{os.getpid()}.{NAMES[index]}.done").touch()


def hold(folder: Path) -> None:
    index = devices.take_free(NAMES, folder)
    (folder / f"{NAMES[index]}.taken").touch()
    signal.pause()


def test_jobs_that_race_never_share_a_device(tmp_path: Path) -> None:
    jobs = [start(work, tmp_path) for _ in range(6)]
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 6
    assert len(list(tmp_path.glob("*.done"))) == 6


@pytest.fixture
def holder(tmp_path: Path):
    job = start(hold, tmp_path)
    while not (tmp_path / "GPU-a.taken").exists():
        assert job.is_alive()
        time.sleep(0.005)
    yield job
    job.kill()
    job.join()


def test_a_job_that_was_killed_leaves_its_device(tmp_path: Path, holder) -> None:
    assert devices.take_free(NAMES, tmp_path) == 1
    holder.kill()
    holder.join()
    assert devices.take_free(NAMES, tmp_path) == 0


def test_devices_are_shared_only_if_asked(tmp_path: Path, holder, monkeypatch) -> None:
    assert devices.take_free(NAMES[:1], tmp_path, share=True) == 0
    assert devices.take_free(NAMES, tmp_path, share=True) == 1, "a free one comes first"

    def sleep(seconds: float) -> None:
        raise TimeoutError

    monkeypatch.setattr(devices.time, "sleep", sleep)
    with pytest.raises(TimeoutError):
        devices.take_free(NAMES, tmp_path)


@pytest.fixture
def gpus(monkeypatch, tmp_path: Path):
    """Pretend that there are two GPUs."""
    monkeypatch.setattr(devices, "gpu_names", lambda: NAMES)
    monkeypatch.setattr(devices, "lock_folder", lambda: tmp_path)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "MEND_SHARE_GPU"):
        monkeypatch.delenv(name, raising=False)
    devices.choose_device.cache_clear()
    yield
    devices.choose_device.cache_clear()


def test_a_process_has_one_device_however_often_it_asks(gpus) -> None:
    assert devices.choose_device() == devices.choose_device() == torch.device("cuda:0")


def test_processes_that_train_together_have_the_gpus_of_their_ranks(
    gpus, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.choose_device() == torch.device("cuda:1")
    assert not list(tmp_path.glob("*.lock")), "the first takes them"
    devices.choose_device.cache_clear()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert devices.choose_device() == torch.device("cuda:0")
    assert len(list(tmp_path.glob("*.lock"))) == 2
    devices.choose_device.cache_clear()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="3 processes, but 2 GPUs"):
        devices.choose_device()


def test_without_a_gpu_there_is_the_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    devices.choose_device.cache_clear()
    assert devices.choose_device() == torch.device("cpu")
    devices.choose_device.cache_clear()


def test_locks_are_in_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = devices.lock_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert devices.lock_folder() == folder
    for absent in ("", "relative", str(tmp_path / "none")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", absent)
        monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir(exist_ok=True)
        assert devices.lock_folder().parent == tmp_path / "temporary"


@pytest.mark.parametrize("kind", ["link", "file", "open to others", "another user's"])
def test_a_folder_of_locks_that_somebody_else_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"mend-gpus-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777 if kind == "open to others" else 0o700)
    if kind == "another user's":
        user = os.getuid() + 1
        folder.rename(tmp_path / f"mend-gpus-{user}")
        monkeypatch.setattr(devices.os, "getuid", lambda: user)
    with pytest.raises(UserError, match=r"mend-gpus-\d+: .*set TMPDIR to a folder of your own"):
        devices.lock_folder()


def test_a_lock_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "GPU-a.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"GPU-a\.lock: no lock can be had there"):
        devices.take_free(["GPU-a"], tmp_path)
    assert not (tmp_path / "precious").exists()
    os.mkfifo(tmp_path / "GPU-b.lock")
    assert devices.take_free(["GPU-b"], tmp_path) == 0
