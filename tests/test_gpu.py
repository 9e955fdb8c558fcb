"""What needs a GPU: `pytest -m gpu`. Each number is the processor's, to a stated tolerance.

Everywhere else, and without `-m gpu`, these are skipped: all other tests mean processors.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from helpers.examples import ALL, examples, items, mend_method
from helpers.jobs import changed, prediction, pretraining, specification
from helpers.models import (
    CONFIGURATIONS,
    ENCODER_DECODERS,
    OBJECTIVE,
    TRAINING,
    build,
    random_llm,
    random_tokens,
)
from helpers.trained import trained_run
from transformers import BitsAndBytesConfig

import mend
from mend.cli import main
from mend.configuration.specs.run import LLMSource
from mend.configuration.specs.teacher import TeacherExamples, TeacherSpec
from mend.configuration.specs.training import Losses
from mend.data.examples import Example
from mend.data.items import MultipleChoiceItem
from mend.evaluation import scoring
from mend.evaluation.predict import run_prediction
from mend.evaluation.scoring import score_items
from mend.models.loading import frozen_llm, load_llm
from mend.training.distributed import Processes
from mend.training.gradients import BatchGradients
from mend.training.job import run_training
from mend.training.loop import TrainingResult, train
from mend.training.losses import example_losses
from mend.training.teacher import write_teacher_states

pytestmark = pytest.mark.gpu

POCKET = Path(__file__).parents[1] / "mend/pocket/models/gpt2"

#: Of float32: its sums are of another order on a GPU.
TOLERANCE = 1e-3

ARCHITECTURES = [*sorted(CONFIGURATIONS), *ENCODER_DECODERS]


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    """The GPU, or a reason why there is none."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU, or hidden: `pytest -m gpu` on a machine that has one")
    return torch.device("cuda")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_the_processors(gpu, architecture: str) -> None:
    llm = random_llm(architecture)
    expected = score_items(llm, build(llm, "vanilla-icl"), items())
    llm.model.to(gpu)
    found = score_items(llm, build(llm, "vanilla-icl"), items())
    for scores, right in zip(found, expected, strict=True):
        assert scores == pytest.approx(right, abs=TOLERANCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_the_processors(gpu, architecture: str) -> None:
    found = []
    for device in (torch.device("cpu"), gpu):
        llm = random_llm(architecture)
        llm.model.to(device)
        method = mend_method(llm)
        losses = example_losses(llm, method, examples(), ALL, "finetune", OBJECTIVE)
        sum(losses.values()).backward()
        gradients = [parameter.grad.cpu() for parameter in method.parameters()]
        found.append(({name: value.item() for name, value in losses.items()}, gradients))
    (losses, gradients), (of_gpu, gradients_of_gpu) = found
    assert of_gpu == pytest.approx(losses, rel=TOLERANCE)
    for gradient, right in zip(gradients_of_gpu, gradients, strict=True):
        assert (gradient - right).norm() <= TOLERANCE * right.norm() + 1e-7


class Examples:
    def __getitem__(self, index: int) -> Example:
        demonstrations = random_tokens(5 + index % 4, 100 + index)
        return Example(demonstrations, demonstrations, [(random_tokens(2 + index % 3, index), [7])])


SETTINGS = TRAINING.model_copy(
    update={"steps": 4, "micro_batch_size": 2, "losses": Losses(pred=1.0, distill=1.0)}
)


def trained(
    device: torch.device,
    architecture: str,
    dtype: torch.dtype,
    distiller: torch.dtype = torch.float32,
    **changes,
) -> TrainingResult:
    """Train a MEND of a random distiller for some steps."""
    llm = random_llm(architecture)
    llm.model.to(device, dtype)
    method = mend_method(llm)
    method.distiller.precision = distiller
    method.train = lambda mode=True: method  # no dropout: a GPU draws other numbers
    method.rounds_to_tf32 = dtype != torch.float32 or distiller != torch.float32
    settings = SETTINGS.model_copy(update=changes)
    return train(llm, method, Examples(), settings, OBJECTIVE)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 5e-3), (torch.float16, 0.05), (torch.bfloat16, 0.15)],
)
def test_training_is_the_processors_in_float32(
    gpu, architecture: str, dtype: torch.dtype, tolerance: float
) -> None:
    """The Llama has grouped queries, at which torch 2.11's counter of operations stops."""
    expected = trained(torch.device("cpu"), architecture, torch.float32)
    found = trained(gpu, architecture, dtype)
    assert [row["step"] for row in found.metrics] == [1, 2, 3, 4]
    for row, right in zip(found.metrics, expected.metrics, strict=True):
        assert row["loss"] == pytest.approx(right["loss"], rel=tolerance)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_distiller_in_mixed_precision_learns_what_one_in_float32_does(
    gpu, architecture: str, compiled: bool
) -> None:
    expected = trained(torch.device("cpu"), architecture, torch.float32)
    found = trained(gpu, architecture, torch.bfloat16, torch.bfloat16, compile=compiled)
    for row, right in zip(found.metrics, expected.metrics, strict=True):
        assert row["loss"] == pytest.approx(right["loss"], rel=0.15)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
def test_compiled_training_is_the_uncompiled(gpu, architecture: str) -> None:
    expected = trained(gpu, architecture, torch.float32)
    found = trained(gpu, architecture, torch.float32, compile=True)
    for row, right in zip(found.metrics, expected.metrics, strict=True):
        assert row["loss"] == pytest.approx(right["loss"], rel=5e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_in_a_step_waits_for_the_gpu(gpu, architecture: str, dtype: torch.dtype) -> None:
    llm = random_llm(architecture)
    llm.model.to(gpu, dtype)
    method = mend_method(llm)
    method.distiller.precision = dtype
    optimizer = torch.optim.AdamW(method.parameters(), fused=True)
    gradients = BatchGradients(llm, method, optimizer, SETTINGS, OBJECTIVE, Processes())
    batch = [Examples()[index] for index in range(4)]
    gradients.compute(batch)  # the first time libraries are loaded, and memory is taken
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses, norm = gradients.compute(batch)
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses["loss"].isfinite()
    assert norm > 0


@pytest.mark.parametrize("name", ["vanilla-icl", "mend"])
@pytest.mark.parametrize("architecture", sorted({*CONFIGURATIONS} - {"opt"}))
def test_scoring_waits_only_for_what_it_returns(gpu, architecture, name, monkeypatch) -> None:
    """All but an OPT, which makes a mask of its own, and asks the GPU whether it masks anything."""
    llm = random_llm(architecture)
    llm.model.to(gpu)
    method = mend_method(llm) if name == "mend" else build(llm, name)
    asked = [
        MultipleChoiceItem(context, random_tokens(12, context), random_tokens(3, 9), [[4], [5, 6]])
        for context in range(6)
    ]
    expected = score_items(llm, method, asked)  # the first time libraries are loaded
    fetch = scoring._by_item

    def fetched(*given):
        torch.cuda.set_sync_debug_mode("default")
        values = fetch(*given)
        torch.cuda.set_sync_debug_mode("error")
        return values

    monkeypatch.setattr(scoring, "_by_item", fetched)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = score_items(llm, method, asked, context_batch_size=2, item_batch_size=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for scores, right in zip(found, expected, strict=True):
        assert scores == pytest.approx(right, abs=TOLERANCE)


def test_a_head_in_16_bits_has_logits_of_float32(gpu) -> None:
    """Each is within float32's rounding of the product of the 16-bit numbers themselves."""
    llm = random_llm("gpt2")
    llm.model.to(gpu, torch.bfloat16)
    llm = frozen_llm(llm.model, llm.tokenizer)
    states = torch.randn(5, llm.width, device=gpu).bfloat16().requires_grad_()
    weights = llm.model.lm_head.weight
    logits = llm.logits(states)
    exact = states.double() @ weights.double().T
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-6)
    logits.square().sum().backward()
    expected = 2 * exact @ weights.double()
    torch.testing.assert_close(states.grad.double(), expected, rtol=2e-2, atol=2e-2)


def test_eight_bits_score_about_the_same() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    source = {"name": "gpt2", "path": str(POCKET), "local_files_only": True}
    asked = [
        MultipleChoiceItem(
            index, random_tokens(20, index), random_tokens(5, 50 + index), [[7], [9]]
        )
        for index in range(8)
    ]
    whole = load_llm(LLMSource(**source, dtype="float32"))
    expected = score_items(whole, build(whole, "vanilla-icl"), asked)
    llm = load_llm(LLMSource(**source, dtype="float16", int8=True))
    found = score_items(llm, build(llm, "vanilla-icl"), asked)
    for scores, right in zip(found, expected, strict=True):
        assert scores == pytest.approx(right, abs=0.5)
    assert found != expected


def test_a_job_takes_the_gpu_and_says_so(data: Path, tmp_path: Path) -> None:
    losses = {"pred": 1.0, "distill": 1.0}
    spec = specification(tmp_path, "llama", "mend", stage="finetune", losses=losses)
    run_training(spec, tmp_path / "finetune", episodes=data / "train.parquet", tasks=data / "tasks")
    record = json.loads((tmp_path / "finetune/record.json").read_text(encoding="utf-8"))
    assert torch.cuda.get_device_name() in json.dumps(record)
    assert record["peak_memory_bytes"] > 0
    assert record["flops"] is None or record["flops"] > 0
    output = tmp_path / "predictions.parquet"
    episodes = data / "test.parquet"
    run_prediction(prediction(spec), episodes, data / "tasks", output, tmp_path / "finetune")
    assert output.exists()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-3), ("bfloat16", 0.1)])
def test_kept_states_teach_as_a_running_teacher(
    data: Path, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    spec = changed(pretraining(data, tmp_path, steps=8), llm={"dtype": dtype})
    kept, chunks = tmp_path / "states", tmp_path / "chunks.parquet"
    wanted = TeacherExamples(stage="pretrain", beta=0.75, seed=0, examples=100)
    teacher = TeacherSpec(llm=spec.llm, reading=spec.reading, teacher=wanted)
    write_teacher_states(teacher, kept, chunks)
    found = []
    for name, states in (("running", None), ("reading", kept)):
        run_training(spec, tmp_path / name, chunks=chunks, teacher=states)
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found.append([json.loads(line)["distill"] for line in lines])
    assert found[1] == pytest.approx(found[0], rel=tolerance, abs=1e-4)


def be_one_of_two(rank: int, port: int, arguments: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.exit(main(arguments))


@pytest.mark.parametrize("sharded", [False, True])
def test_two_gpus_train_as_one_does(data: Path, tmp_path: Path, sharded: bool) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("NCCL needs two GPUs")
    processes = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stage = {"stage": "finetune", "losses": {"pred": 1.0, "distill": 1.0}, "batch_size": 4}
    spec = specification(tmp_path, "llama", "mend", **stage, micro_batch_size=2)  # no dropout
    found = []
    for name, ranks in (("one", []), ("two", [0, 1])):
        spec = changed(spec, llm={"sharded": sharded and bool(ranks)})
        (tmp_path / f"{name}.json").write_text(spec.model_dump_json(), encoding="utf-8")
        arguments = ["train", "--spec", str(tmp_path / f"{name}.json")]
        arguments += ["--episodes", str(data / "train.parquet"), "--tasks", str(data / "tasks")]
        arguments += ["--output", str(tmp_path / name)]
        if ranks:
            started = [
                processes.Process(target=be_one_of_two, args=(rank, port, arguments))
                for rank in ranks
            ]
        else:
            started = [processes.Process(target=main, args=(arguments,))]
        for process in started:
            process.start()
        for process in started:
            process.join(120)
        assert [process.exitcode for process in started] == [0] * len(started)
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found.append([json.loads(line)["loss"] for line in lines])
    assert found[1] == pytest.approx(found[0], rel=5e-3)


SHOWN = [("w1 w2", "w50"), ("w3 w4", "w51 w52"), ("w5 w6", "w50")]


@pytest.mark.parametrize(
    "loading",
    [{}, {"device_map": "auto"}, {"device": "cuda:0", "dtype": "bfloat16"}],
    ids=["by itself", "device_map", "bfloat16"],
)
def test_the_library_computes_what_it_does_on_a_processor(gpu, loading, data, tmp_path) -> None:
    trained_run(data, tmp_path)
    distillers = [
        mend.Distiller.from_pretrained(tmp_path / "run", **given)
        for given in ({"device": "cpu"}, loading)
    ]
    assert distillers[1].llm.device.type == "cuda"
    contexts = [one.distill_many([SHOWN, SHOWN[:1]]) for one in distillers]
    scores = [
        torch.tensor(one.score(both, ["w7 w8", "w9"], ["w50", "w51 w52"]))
        for one, both in zip(distillers, contexts, strict=True)
    ]
    tolerance = 0.2 if "dtype" in loading else 10 * TOLERANCE
    torch.testing.assert_close(scores[1], scores[0], atol=tolerance, rtol=0)
    contexts[1][0].save_pretrained(tmp_path / "context")
    again = mend.Context.from_pretrained(tmp_path / "context", distillers[1].llm)
    texts = [
        distillers[1].generate(one, ["w7"], max_new_tokens=3, do_sample=False)
        for one in (contexts[1][0], again)
    ]
    assert texts[0] == texts[1]


def test_the_library_reads_an_llm_in_8_bit(gpu, data, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    trained_run(data, tmp_path)
    plain = mend.Distiller.from_pretrained(tmp_path / "run", device="cpu")
    eight = mend.Distiller.from_pretrained(
        tmp_path / "run", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    scores = [
        torch.tensor(one.score(one.distill(SHOWN), ["w7 w8"], ["w50", "w51 w52"]))
        for one in (plain, eight)
    ]
    torch.testing.assert_close(scores[1], scores[0], atol=0.5, rtol=0)
