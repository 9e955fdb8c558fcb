"""Several processes that train together come to what one comes to alone: on processors, always.

Losses and gradients are compared, not weights: AdamW makes much of gradients that are about zero.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.jobs import SEED, changed, specification, write_data
from helpers.models import OBJECTIVE, built, random_llm, random_tokens
from helpers.models import TRAINING as SHARED_TRAINING

from mend.cli import main
from mend.configuration.specs.training import Losses, TrainingSettings
from mend.data.examples import Example
from mend.errors import UserError
from mend.methods.prompt_tuning import PromptTuning
from mend.models.sharding import is_sharded, shard_blocks
from mend.training.distributed import Processes, joined_processes
from mend.training.loop import train

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["mend.cli", "mend.training.job"])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def job(
    data: Path, folder: Path, output: str, architecture: str = "gpt2", sharded=False, **training
) -> list[str]:
    """Write a finetuning job without random numbers, and return its command."""
    stopping = {"every": 2, "patience": 10**6, "rows_per_task": 4, "seed": SEED}
    stopping["tasks"] = {"parity": "classification"}
    stage = {"stage": "finetune", "losses": {"pred": 1.0, "distill": 1.0}, "steps": 6}
    stage |= {"batch_size": 5, "micro_batch_size": 2, "early_stopping": stopping}
    spec = specification(folder, architecture, "mend", **stage | training)
    spec = changed(spec, llm={"sharded": sharded})
    file = folder / "distiller/config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop", "dropout_rate"), 0.0)
    file.write_text(json.dumps(config), encoding="utf-8")
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    paths = {"spec": folder / "spec.json", "output": folder / output, "log": folder / "log"}
    paths |= {"episodes": data / "train.parquet", "tasks": data / "tasks"}
    paths |= {"dev": data / "dev.parquet"}
    return ["train", *(text for key, path in paths.items() for text in (f"--{key}", str(path)))]


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_train_as_one_does(data: Path, tmp_path: Path) -> None:
    assert exit_codes(start(1, run_one, job(data, tmp_path, "one"))) == [0]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "-m", "--", "mend"]
    ran = subprocess.run(
        [*torchrun, *job(data, tmp_path, "two")],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    alone, together = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [row["step"] for row in together] == [1, 2, 3, 4, 5, 6]
    for row, other in zip(alone, together, strict=True):
        assert other == pytest.approx(row, rel=1e-4)
    records = [json.loads((tmp_path / name / "record.json").read_text()) for name in ("one", "two")]
    assert [record["processes"] for record in records] == [1, 2]
    for key in ("steps", "best_step", "examples", "flops"):
        assert records[0][key] == pytest.approx(records[1][key], rel=0.1), key
    assert ran.stderr.count("training on cpu") == 1, "the first speaks for all"
    assert (tmp_path / "log").read_text().count("weights of step") == 1


def be_one_of(count: int, rank: int, port: int) -> None:
    """Set what torchrun tells process `rank` of so many, and hide GPUs."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(count), "CUDA_VISIBLE_DEVICES": ""}


def run_one(count: int, rank: int, port: int, arguments: list[str]) -> None:
    be_one_of(count, rank, port)
    sys.exit(main(arguments))


def start(count: int, target: Callable, *arguments) -> list[multiprocessing.process.BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        processes.Process(target=target, args=(count, rank, port, *arguments))
        for rank in range(count)
    ]
    for process in started:
        process.start()
    return started


def exit_codes(started: list[multiprocessing.process.BaseProcess]) -> list[int | None]:
    for process in started:
        process.join(60)
        process.kill()
    return [process.exitcode for process in started]


def test_all_stop_when_one_is_asked_to(data: Path, tmp_path: Path) -> None:
    command = job(data, tmp_path, "output", steps=10**6)
    both = start(2, run_one, command)
    metrics_file = tmp_path / "output.checkpoint/metrics.jsonl"
    while not metrics_file.exists():
        assert all(process.is_alive() for process in both)
        time.sleep(0.005)
    os.kill(both[1].pid, signal.SIGTERM)
    assert exit_codes(both) == [143, 143]
    state = torch.load(tmp_path / "output.checkpoint/state.pt", weights_only=True)
    assert len(state["random"]) == 2
    assert state["state"]["result"]["steps"] == len(metrics(tmp_path / "output.checkpoint"))


class Examples:
    def __getitem__(self, index: int) -> Example:
        return Example([], [], [(random_tokens(2 + index % 3, index), [7])])


TRAINING = SHARED_TRAINING.model_copy(
    update={"steps": 3, "micro_batch_size": 1, "losses": Losses(clm=1.0, pred=1.0)}
)


class NoMemory(PromptTuning):
    def contexts(self, llm, trained, demonstrations):
        raise torch.OutOfMemoryError


def train_prompt(
    architecture: str,
    together: Processes,
    sharded: bool,
    kind: type = PromptTuning,
    training: TrainingSettings = TRAINING,
) -> list[dict]:
    llm = random_llm(architecture)
    torch.manual_seed(0)
    method = built(llm, kind(length=3))
    if sharded:
        shard_blocks(llm.model, torch.device("cpu"))
        assert is_sharded(llm.model)
    return train(llm, method, Examples(), training, OBJECTIVE, processes=together).metrics


def train_sharded(count: int, rank: int, port: int, folder: Path) -> None:
    be_one_of(count, rank, port)
    with joined_processes() as together:
        for architecture in ARCHITECTURES:
            torch.save(train_prompt(architecture, together, True), folder / architecture)
        with pytest.raises(UserError, match="micro_batch_size: 1 examples at once do not fit"):
            train_prompt("gpt2", together, True, NoMemory)
        odd = TRAINING.model_copy(update={"batch_size": 5})
        with pytest.raises(UserError, match="5 examples cannot be shared evenly by 2"):
            train_prompt("gpt2", together, True, training=odd)


ARCHITECTURES = ("gpt2", "opt", "llama", "gpt-neox", "t5")


def test_an_llm_sharded_over_two_processes_teaches_the_same(tmp_path: Path) -> None:
    both = start(2, train_sharded, tmp_path)
    assert exit_codes(both) == [0, 0]
    for architecture in ARCHITECTURES:
        together = torch.load(tmp_path / architecture, weights_only=True)
        alone = train_prompt(architecture, Processes(), False)
        for row, other in zip(alone, together, strict=True):
            assert other == pytest.approx(row, rel=1e-4)


def test_one_process_keeps_the_whole_llm() -> None:
    llm = random_llm()
    shard_blocks(llm.model, torch.device("cpu"))
    assert not is_sharded(llm.model)


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_a_job_with_a_sharded_llm_trains_as_one_process_does(
    data: Path, tmp_path: Path, architecture: str
) -> None:
    stage = {"batch_size": 4, "steps": 4}
    assert exit_codes(start(1, run_one, job(data, tmp_path, "one", architecture, **stage))) == [0]
    both = start(2, run_one, job(data, tmp_path, "two", architecture, sharded=True, **stage))
    assert exit_codes(both) == [0, 0]
    alone, together = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [row["step"] for row in together] == [1, 2, 3, 4]
    for row, other in zip(alone, together, strict=True):
        assert other == pytest.approx(row, rel=1e-4)


class Three(Processes):
    """Three processes, of which this is the second."""

    rank, count = 1, 3


def test_shares_cover_the_batch_and_differ_by_at_most_one() -> None:
    shares = []
    for rank in range(3):
        process = Three()
        process.rank = rank
        shares.append(list(process.shard(8)))
    assert sorted(sum(shares, [])) == list(range(8))
    assert {len(share) for share in shares} == {2, 3}


def test_more_processes_than_examples_are_refused() -> None:
    training = TRAINING.model_copy(update={"batch_size": 2})
    with pytest.raises(UserError, match="batch_size: 2 examples are fewer than the 3 processes"):
        train(random_llm(), None, [], training, OBJECTIVE, processes=Three())
