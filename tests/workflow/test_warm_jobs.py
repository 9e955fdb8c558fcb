"""Jobs of Snakemake that start warm, and what happens to them when it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs start warm on Linux alone")

RUN = "runs/pocket-gpt2/mend/default"
TARGET = f"results/{RUN}/pretrain/weights.safetensors"


def wait_for(happened) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def servers(folder: Path) -> list[psutil.Process]:
    """The servers of this copy of the workflow, and their children."""
    found = []
    for process in psutil.process_iter():
        try:
            if "mend.warm_server" in process.cmdline() and process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_workflow_leaves_checkpoints_and_no_process(workflow, number: int) -> None:
    values = workflow.with_value("training/pretrain/steps", 10**6)
    (workflow.folder / "endless.yaml").write_text(yaml.safe_dump(values))
    log = workflow.folder / f"results/logs/{RUN}/pretrain.log"
    log.unlink(missing_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [*(sys.executable, "-m", "snakemake", "--cores", "8"), "--nolock", TARGET]
        + ["--configfile", "endless.yaml"],
        cwd=workflow.folder,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: log.exists() and "training on cpu" in log.read_text())
    running = servers(workflow.folder)
    assert len(running) > 1
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # Ctrl-C, which clients get as well
    else:
        process.kill()
    process.wait(timeout=120)
    # (A zombie has no command line any more.)
    wait_for(lambda: not servers(workflow.folder))
    asked = "SIGINT" if number == signal.SIGINT else "SIGTERM"
    assert re.findall("stopped by ([A-Z]+)", log.read_text()) == [asked]
    assert (workflow.folder / f"results/{RUN}/pretrain.checkpoint/state.pt").exists()
    assert not (workflow.folder / TARGET).exists()


@pytest.mark.parametrize("warm", [True, False])
def test_jobs_start_warm_unless_switched_off(workflow, warm: bool) -> None:
    environment = {} if warm else {"MEND_WARM": "0"}
    done = workflow.snakemake(TARGET, "--nolock", "--forcerun", "pretrain", **environment)
    assert done.code == 0, done.text[-3000:]
    assert "processor time" in done.text
    assert ("started warm" in done.text) == warm
    wait_for(lambda: not servers(workflow.folder))
