"""The teacher's states on disk: training with them is training with the teacher itself."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from helpers.jobs import changed, pretraining, specification, write_data
from helpers.models import OBJECTIVE, READING
from safetensors.torch import load_file

from mend.configuration.specs.teacher import TeacherExamples, TeacherSpec
from mend.configuration.specs.training import Losses, TrainingSpec
from mend.data.examples import ChunkExamples, EpisodeExamples
from mend.data.template import Template
from mend.errors import UserError
from mend.methods.built import build_method
from mend.models.loading import load_llm
from mend.models.tensor_files import TensorFile, save_tensors
from mend.training import teacher
from mend.training.job import run_training
from mend.training.losses import example_losses, teacher_states
from mend.training.teacher import TaughtExamples, TeacherStates, write_teacher_states


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def teacher_spec(spec: TrainingSpec, **wanted) -> TeacherSpec:
    return TeacherSpec(llm=spec.llm, reading=spec.reading, teacher=TeacherExamples(**wanted))


def of_chunks(spec: TrainingSpec, examples: int = 100) -> TeacherSpec:
    return teacher_spec(spec, stage="pretrain", beta=0.75, seed=0, examples=examples)


def metrics(folder: Path, name: str, spec: TrainingSpec, **inputs) -> list[dict]:
    """Train, and return what each step logged: losses and the gradient's norm."""
    run_training(spec, folder / name, **inputs)
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").open()]


def assert_same_metrics(found: list[dict], expected: list[dict], tolerance: float = 1e-4) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "t5 that reads the query"])
def test_kept_states_give_the_losses_and_gradients_of_a_running_teacher(
    data: Path, tmp_path: Path, architecture: str
) -> None:
    name = architecture.split()[0]
    spec = specification(tmp_path, name, "mend", stage="finetune")
    if name != architecture:
        spec = changed(spec, llm={"query_in": "encoder"})
    inputs = {"episodes": data / "train.parquet", "tasks": data / "tasks"}
    kept = tmp_path / "states"
    write_teacher_states(teacher_spec(spec, stage="finetune", examples=100), kept, **inputs)
    llm = load_llm(spec.llm)
    method = build_method(llm, spec)
    template = Template(llm.tokenizer, READING, llm.max_positions)

    def learnt(teacher: TeacherStates | None) -> tuple[float, list[torch.Tensor]]:
        limits = dict(READING.longest_context)
        examples = EpisodeExamples(inputs["episodes"], inputs["tasks"], template, limits)
        examples = TaughtExamples(examples, teacher) if teacher else examples
        batch = [examples[index] for index in range(len(examples))]
        losses = example_losses(llm, method, batch, Losses(distill=1.0), "finetune", OBJECTIVE)
        loss = losses["distill"]
        return loss.item(), torch.autograd.grad(loss, list(method.parameters()))

    loss, gradients = learnt(TeacherStates(kept, llm))
    running_loss, running_gradients = learnt(None)
    assert loss == pytest.approx(running_loss, rel=1e-4)
    for gradient, running in zip(gradients, running_gradients, strict=True):
        torch.testing.assert_close(gradient, running, atol=1e-5, rtol=1e-4)


def test_finetuning_reads_kept_states(data: Path, tmp_path: Path) -> None:
    losses = {"pred": 1.0, "distill": 1.0}
    spec = specification(tmp_path, "gpt2", "mend", stage="finetune", losses=losses)
    inputs = {"episodes": data / "train.parquet", "tasks": data / "tasks"}
    kept = tmp_path / "states"
    write_teacher_states(teacher_spec(spec, stage="finetune", examples=100), kept, **inputs)
    running = metrics(tmp_path, "running", spec, **inputs)
    assert_same_metrics(metrics(tmp_path, "reading", spec, **inputs, teacher=kept), running)
    # The states matter: with others the losses are others.
    [shard] = kept.glob("*.safetensors")
    identity = TensorFile(shard, "states").identity
    save_tensors({key: -value for key, value in load_file(shard).items()}, shard, identity)
    other = metrics(tmp_path, "other", spec, **inputs, teacher=kept)
    assert other[-1]["distill"] != pytest.approx(running[-1]["distill"], rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pretraining_reads_kept_states(data: Path, tmp_path: Path, dtype: str) -> None:
    spec = pretraining(data, tmp_path, steps=30)  # chunks come again
    spec = changed(spec, llm={"dtype": dtype})
    kept = tmp_path / "states"
    chunks = {"chunks": tmp_path / "chunks.parquet"}
    write_teacher_states(of_chunks(spec), kept, **chunks)
    states = TeacherStates(kept, load_llm(spec.llm))
    examples = ChunkExamples(chunks["chunks"], 0.75, dict(spec.reading.longest_context), 0, 96)
    assert len(states) == len(examples) < 60
    assert states[0].shape == (4, 16)
    assert states[0].dtype == getattr(torch, dtype)
    running = metrics(tmp_path, "running", spec, **chunks)
    reading = metrics(tmp_path, "reading", spec, **chunks, teacher=kept)
    assert_same_metrics(reading, running, {"float32": 1e-3, "bfloat16": 5e-2}[dtype])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_job_goes_on_from_the_first_missing_shard(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "SHARD", 4)
    spec = pretraining(data, tmp_path)
    chunks = tmp_path / "chunks.parquet"
    whole, output = tmp_path / "whole", tmp_path / "states"
    write_teacher_states(of_chunks(spec), whole, chunks)
    computed = []

    def counted(llm, examples, stage):
        computed.append(len(examples))
        if len(computed) == 3:
            raise KeyboardInterrupt
        return teacher_states(llm, examples, stage)

    monkeypatch.setattr(teacher, "teacher_states", counted)
    with pytest.raises(KeyboardInterrupt):
        write_teacher_states(of_chunks(spec), output, chunks)
    assert not output.exists()
    partial = tmp_path / ".states.partial"
    (partial / "000002.safetensors").write_bytes(b"half of a shard")
    write_teacher_states(of_chunks(spec), output, chunks)
    llm = load_llm(spec.llm)
    examples = len(TeacherStates(output, llm))
    assert sum(computed[3:]) == examples - 8
    assert contents(output) == contents(whole)
    assert not partial.exists()
    states = TeacherStates(output, llm)
    assert torch.equal(states[5], load_file(output / "000001.safetensors")["5"])

    # What another job left is not gone on from.
    shutil.copytree(whole, partial)
    computed[:] = [0, 0, 0]
    other = changed(of_chunks(spec), teacher={"beta": 0.5})
    write_teacher_states(other, output, chunks)
    assert sum(computed[3:]) == examples


def test_the_size_is_said_and_a_full_disk_is_told_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    spec = pretraining(data, tmp_path)
    chunks, output = tmp_path / "chunks.parquet", tmp_path / "states"
    monkeypatch.setattr(teacher.logger, "propagate", True)
    with caplog.at_level("INFO"):
        write_teacher_states(of_chunks(spec, examples=5), output, chunks)
    assert "5 examples, 0.00 GB" in caplog.text
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 0, 10))
    with pytest.raises(UserError, match=r"0.0 GB are free.*pretrain.teacher_cache to false"):
        write_teacher_states(of_chunks(spec), tmp_path / "other", chunks)
    assert not (tmp_path / "other").exists()


def test_fewer_at_once_where_memory_runs_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = pretraining(data, tmp_path)
    chunks = tmp_path / "chunks.parquet"
    write_teacher_states(of_chunks(spec), tmp_path / "usual", chunks)
    sizes = []

    def with_little_memory(llm, examples, stage):
        sizes.append(len(examples))
        if len(examples) > 3:
            raise torch.OutOfMemoryError
        return teacher_states(llm, examples, stage)

    monkeypatch.setattr(teacher, "teacher_states", with_little_memory)
    write_teacher_states(of_chunks(spec), tmp_path / "small", chunks)
    assert sizes[:4] == [16, 8, 4, 2]
    llm = load_llm(spec.llm)
    usual, small = (TeacherStates(tmp_path / name, llm) for name in ("usual", "small"))
    for index in range(len(usual)):
        torch.testing.assert_close(small[index], usual[index], atol=1e-5, rtol=1e-4)


def test_states_of_too_few_examples_are_refused(data: Path, tmp_path: Path) -> None:
    spec = pretraining(data, tmp_path)
    chunks, output = tmp_path / "chunks.parquet", tmp_path / "states"
    write_teacher_states(of_chunks(spec, examples=7), output, chunks)
    with pytest.raises(UserError, match="states of 7 examples, and 8 are trained on"):
        run_training(spec, tmp_path / "x", chunks=chunks, teacher=output)
    (output / "000000.safetensors").write_bytes(b"no states")
    with pytest.raises(UserError, match="not a file of a teacher's states"):
        run_training(spec, tmp_path / "x", chunks=chunks, teacher=output)
    (output / "000000.safetensors").unlink()
    with pytest.raises(UserError, match="not a folder of a teacher's states"):
        run_training(spec, tmp_path / "x", chunks=chunks, teacher=output)
