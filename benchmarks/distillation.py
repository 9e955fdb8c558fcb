"""A step of distillation: ours beside the authors' way, on equal episodes and with equal loss.

Ours is measured with the teacher running at each step, and with its states read from disk.

The obvious way: one episode at a time, padded to the longest context, and the vocabulary's logits
of every position of teacher and student.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from floors import floor_seconds
from models import device, distiller, llm, mend, random_tokens, without_kernels
from safetensors.torch import save_file
from side_by_side import compare, exit_status
from torch.nn import functional

from mend.analysis.profiling import measure_memory
from mend.configuration.specs.training import Losses, LossSettings
from mend.data.examples import Example
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM
from mend.training.losses import example_losses, teacher_states
from mend.training.teacher import TeacherStates

# The paper's contexts are 469 to 848 tokens long (figure 3), its longest is 900.
CONTEXTS = (469, 652, 639, 848, 818, 469, 652, 639)
LONGEST, QUERY, ANSWER, VECTORS = 900, 52, 4, 100
OBJECTIVE = LossSettings(
    llm_dropout_in_training=False,
    distill_first_token=True,
    distill_in_finetuning="input-and-output",
    prediction_loss="mean",
)
WEIGHTS = Losses(pred=1.0, distill=1.0)


def episodes(number: int) -> list[Example]:
    """Return random finetuning episodes of one query each."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for index in range(number):
        shown = random_tokens(CONTEXTS[index % len(CONTEXTS)], generator)
        query = (random_tokens(QUERY, generator), random_tokens(ANSWER, generator))
        made.append(Example(shown, shown, [query]))
    return made


def our_step(
    llm: FrozenLLM, method: BuiltMethod, batch: list[Example], micro_batch_size: int
) -> float:
    """Add a batch's gradients as training does, micro-batch by micro-batch; return its loss."""
    total = 0.0
    batch = sorted(batch, key=lambda example: len(example.demonstrations))
    for start in range(0, len(batch), micro_batch_size):
        part = batch[start : start + micro_batch_size]
        losses = example_losses(llm, method, part, WEIGHTS, "finetune", OBJECTIVE)
        loss = sum(losses.values()) * len(part) / len(batch)
        loss.backward()
        total += loss.item()
    return total


def obvious_step(llm: FrozenLLM, method: BuiltMethod, batch: list[Example]) -> float:
    """The same, one padded episode at a time, with logits everywhere."""
    total = 0.0
    for example in batch:
        (x, y) = example.queries[0]
        shown = torch.tensor([example.demonstrations], device=llm.device)
        text = torch.tensor([[*x, *y]], device=llm.device)
        missing = LONGEST - shown.shape[1]
        padded = functional.pad(shown, (missing, 0))
        mask = functional.pad(torch.ones_like(shown), (missing, 0))
        with torch.no_grad():
            whole = torch.cat([mask, torch.ones_like(text)], 1)
            positions = whole.cumsum(1).sub(1).clamp(min=0)
            teacher = llm.model(
                input_ids=torch.cat([padded, text], 1), attention_mask=whole, position_ids=positions
            ).logits
        vectors = padded_vectors(method, padded, mask)
        embeddings = torch.cat([vectors.to(llm.dtype), llm.embedding(text)], 1)
        student = llm.model(inputs_embeds=embeddings).logits
        teacher_log = teacher[:, LONGEST - 1 : -1].float().log_softmax(-1)
        student_log = student[:, VECTORS - 1 : -1].float().log_softmax(-1)
        divergence = (teacher_log.exp() * (teacher_log - student_log)).sum(-1).mean()
        nll = functional.cross_entropy(student_log[0, len(x) :], text[0, len(x) :])
        loss = (divergence + nll) / len(batch)
        loss.backward()
        total += loss.item()
    return total


def padded_vectors(method: BuiltMethod, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Distil a padded row; positions and mask leave the padding out."""
    own = method.distiller
    embeddings = torch.cat([own.backbone.get_input_embeddings()(ids), own.placeholders[None]], 1)
    mask = torch.cat([mask, mask.new_ones(1, own.length)], 1)
    positions = mask.cumsum(1).sub(1).clamp(min=0)
    states = own.backbone(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return own.projection(states[:, -own.length :].float())


def cached_states(llm: FrozenLLM, batch: list[Example], folder: Path) -> TeacherStates:
    """Write the teacher's states of a batch as `mend.training.teacher` does, and open them."""
    states = [one.cpu() for one in teacher_states(llm, batch, "finetune")]
    save_file({str(i): one for i, one in enumerate(states)}, folder / "000000.safetensors")
    return TeacherStates(folder)


def run() -> tuple[list[dict], list[str]]:
    """Compare a step; return the table's rows, and sentences on reading and memory."""
    model = llm()
    method = mend(model, distiller(model, VECTORS))
    with without_kernels():
        plain = llm()
        plain_method = mend(plain, distiller(plain, VECTORS))
    on_gpu = device().type == "cuda"
    batch = episodes(8)  # as in the paper
    micro_batch_size = 4 if on_gpu else 2

    def ours() -> float:
        method.zero_grad()
        return our_step(model, method, batch, micro_batch_size)

    def obvious() -> float:
        plain_method.zero_grad()
        return obvious_step(plain, plain_method, batch)

    with tempfile.TemporaryDirectory() as folder:
        states = cached_states(model, batch, Path(folder))

        def read() -> list[Example]:
            return [replace(example, teacher_states=states[i]) for i, example in enumerate(batch)]

        def ours_reading() -> float:
            method.zero_grad()
            return our_step(model, method, read(), micro_batch_size)

        rows = [
            compare(
                f"distillation step, {len(batch)} episodes, teacher {how}",
                step,
                obvious,
                lambda first, second: abs(first - second),
                tolerance=0.1 if on_gpu else 1e-3,
                goal=goal,
                floor=floor_seconds(step, model),
            )
            for how, step, goal in (("running", ours, 2), ("cached on disk", ours_reading, 3))
        ]
        began = time.perf_counter()
        for _ in range(100):
            read()
        share = (time.perf_counter() - began) / 100 / rows[1]["ours"]
    reading = f"reading the teacher's states takes {share:.2%} of a step (goal: at most 5 %)"
    print(reading)
    one = batch[:1]
    return rows, [
        reading,
        memory(
            lambda: our_step(model, method, one, 1),
            lambda: obvious_step(plain, plain_method, one),
        ),
    ]


def memory(ours: Callable[[], float], obvious: Callable[[], float]) -> str:
    """Compare the peak memory above the weights, one episode at a time both."""

    def peak(step: Callable[[], float]) -> float:
        def parts():
            step()
            yield "step"

        return measure_memory(parts, device())["step"] / 2**20

    peaks = {"ours": peak(ours), "obvious": peak(obvious)}
    share = peaks["ours"] / peaks["obvious"]
    note = (
        f"peak memory of a distillation step of one episode, above the weights: "
        f"{peaks['ours']:.0f} MiB, the obvious way {peaks['obvious']:.0f} MiB: {share:.2f} x "
        "(goal: at most 0.6 x)"
    )
    print(note)
    return note


if __name__ == "__main__":
    sys.exit(exit_status(run()[0]))
