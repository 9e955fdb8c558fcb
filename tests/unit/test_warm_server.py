"""When a job may not start warm, and what a server and its clients are made of."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mend import warm
from mend.warm_server import FREE, Server, _unfit_to_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs start warm on Linux alone")


def test_a_server_refuses_other_code_and_another_environment() -> None:
    server = Server(None, lambda: None)
    server.identity = ["this code"]
    environment = dict(os.environ)

    def refusal(identity: str = "this code", **others) -> str | None:
        request = {"identity": [identity], "environment": environment | others}
        return server._refusal(request)

    assert refusal() is None
    assert refusal(OMP_NUM_THREADS="3", **dict.fromkeys(FREE, "x")) is None
    assert "code has changed" in refusal("other code")
    assert refusal(HF_HOME="elsewhere") == "other environment: HF_HOME"
    server.unfit = "threads"
    assert refusal() == "threads"


def test_the_code_is_another_when_a_file_or_a_package_is(tmp_path: Path, monkeypatch) -> None:
    packages = tmp_path / "site-packages"
    module = tmp_path / "mend/methods/mine.py"
    for folder in (packages, module.parent):
        folder.mkdir(parents=True)
    module.write_text("1")
    monkeypatch.setattr(warm, "__file__", str(tmp_path / "mend/warm.py"))
    monkeypatch.setattr(sys, "path", [str(packages)])
    first = warm.code_identity()
    assert warm.code_identity() == first
    module.write_text("12")
    edited = warm.code_identity()
    (packages / "package").mkdir()
    os.utime(packages, ns=(0, 0))
    installed = warm.code_identity()
    assert first != edited != installed


def test_no_child_is_forked_from_a_process_with_threads() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert "starts threads" in _unfit_to_fork()
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("reason", ["switched off", "no room for the socket's name"])
def test_no_server_is_started(reason: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(warm.SOCKET, raising=False)
    if reason == "switched off":
        monkeypatch.setenv("MEND_WARM", "0")
    else:
        long = tmp_path / ("x" * 100)
        long.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(long))
    assert warm.start_server() is None
    assert warm.SOCKET not in os.environ
    assert not list(tmp_path.glob("*/mend-warm-*"))


def test_a_client_imports_little() -> None:
    code = "import sys; import mend.warm; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "numpy", "pyarrow", "mend.cli", "argparse", "logging"}
    assert not heavy & set(done.stdout.split())
