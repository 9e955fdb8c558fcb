"""A step of distillation: ours beside the authors' way and the best plain way.

All three start from the same weights, get the same episodes, and end with clipped gradients and a
step of AdamW (at a learning rate of 0, so that losses stay comparable).

Ours is the training job's own step (`mend.training.gradients`), as it is by default. The authors'
way is one episode at a time, padded to the longest context, with the vocabulary's logits of every
position of teacher and student. The plain way is one forward pass each of teacher, distiller and
student over all episodes, padded on the right, without a cache, logits only where they are read;
its tensors are on the device before it begins. On a GPU it is compiled as a whole, and its
distiller is under bfloat16 autocast.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from launches import count_launches
from models import on_gpu, pair, paper_shape, random_tokens, without_kernels
from side_by_side import Row, compare, show
from torch import Tensor
from torch.nn import functional
from transformers import masking_utils

from mend.configuration.specs.training import Losses, LossSettings, TrainingSettings
from mend.data.examples import Example
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM
from mend.models.tensor_files import save_tensors
from mend.training.distributed import Processes
from mend.training.gradients import BatchGradients
from mend.training.losses import teacher_states
from mend.training.operations import TrainingOperations
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
#: The most kernels of a step of 8 that is not compiled.
MOST_LAUNCHES = 2500

Step = Callable[[], Tensor]


def episodes(number: int, contexts: tuple[int, ...] = CONTEXTS) -> list[Example]:
    """Return random finetuning episodes of one query each."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for index in range(number):
        shown = random_tokens(contexts[index % len(contexts)], generator)
        query = (random_tokens(QUERY, generator), random_tokens(ANSWER, generator))
        made.append(Example(shown, shown, [query]))
    return made


def settings(batch: int, **changes) -> TrainingSettings:
    """Return the paper's finetuning, of so many steps that compiling pays where it can."""
    values = {
        "stage": "finetune",
        "steps": 30_000,
        "batch_size": batch,
        "learning_rate": 1e-4,
        "warmup_fraction": 0.0,
        "schedule": "constant",
        "weight_decay": 0.0,
        "gradient_clip": 1.0,
        "betas": [0.9, 0.999],
        "losses": WEIGHTS,
        "checkpoint_every": 1000,
        "log_every": 100,
        "seed": 0,
    }
    return TrainingSettings(**(values | changes))


def adamw(method: BuiltMethod) -> torch.optim.Optimizer:
    """Return an optimizer that computes all that it always does, and changes nothing."""
    return torch.optim.AdamW(method.parameters(), lr=0.0, weight_decay=0.0, fused=True)


def our_step(
    llm: FrozenLLM, method: BuiltMethod, batch: Callable[[], list[Example]], **changes
) -> Step:
    """Return a step as training does it; changes: of `settings`."""
    optimizer, given = adamw(method), settings(len(batch()), **changes)
    gradients = BatchGradients(llm, method, optimizer, given, OBJECTIVE, Processes())

    def step() -> Tensor:
        losses, _ = gradients.compute(batch())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses["loss"]

    return step


def another_step(method: BuiltMethod, add_gradients: Step) -> Step:
    """Return a step whose gradients are added by a function, which returns the loss."""
    optimizer, parameters = adamw(method), list(method.parameters())

    def step() -> Tensor:
        loss = add_gradients()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def authors_step(llm: FrozenLLM, method: BuiltMethod, batch: list[Example]) -> Step:
    """Return the step of one padded episode at a time, with logits everywhere."""

    def of_one(example: Example) -> Tensor:
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
        return divergence + functional.cross_entropy(student_log[0, len(x) :], text[0, len(x) :])

    def add_gradients() -> Tensor:
        losses = []
        for example in batch:
            loss = of_one(example) / len(batch)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    return another_step(method, add_gradients)


def padded_vectors(method: BuiltMethod, ids: Tensor, mask: Tensor) -> Tensor:
    """Distil a padded row; positions and mask leave the padding out."""
    own = method.distiller
    embeddings = torch.cat([own.backbone.get_input_embeddings()(ids), own.placeholders[None]], 1)
    mask = torch.cat([mask, mask.new_ones(1, own.length)], 1)
    positions = mask.cumsum(1).sub(1).clamp(min=0)
    states = own.backbone(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return own.projection(states[:, -own.length :].float())


def plain_step(llm: FrozenLLM, method: BuiltMethod, batch: list[Example], compiled: bool) -> Step:
    """Return the step of three plain forward passes."""
    # It would look for several texts in a row and, compiled, hide nothing with a mask that keeps
    # attention from its fastest kernel.
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    own, body = method.distiller, llm.body
    head = llm.model.get_output_embeddings().weight
    count, length = len(batch), QUERY + ANSWER
    shown = [len(example.demonstrations) for example in batch]
    text = torch.tensor([[*x, *y] for example in batch for x, y in example.queries])
    read = torch.zeros(count, max(shown) + length, dtype=torch.long)
    distilled = torch.zeros(count, max(shown) + VECTORS, dtype=torch.long)
    for row, (example, before) in enumerate(zip(batch, shown, strict=True)):
        read[row, :before] = distilled[row, :before] = torch.tensor(example.demonstrations)
        read[row, before : before + length] = text[row]
    before = torch.tensor(shown)[:, None]
    taught = before - 1 + torch.arange(length)
    placed = before + torch.arange(VECTORS)
    tensors = (read, distilled, text, taught, placed, torch.arange(count)[:, None])
    read, distilled, text, taught, placed, row = (one.to(llm.device) for one in tensors)

    def logs(states: Tensor) -> Tensor:
        return functional.linear(states, head).float().log_softmax(-1)

    def loss_of_all() -> Tensor:
        with torch.no_grad():
            states = body(input_ids=read, use_cache=False).last_hidden_state
            teacher = logs(states[row, taught])
        with torch.autocast(llm.device.type, torch.bfloat16, enabled=on_gpu()):
            words = own.backbone.get_input_embeddings()(distilled)
            words = words.index_put((row, placed), own.placeholders.expand(count, -1, -1))
            states = own.backbone(inputs_embeds=words, use_cache=False).last_hidden_state
            vectors = own.projection(states[row, placed])
        embeddings = torch.cat([vectors.to(llm.dtype), llm.embedding(text)], 1)
        states = body(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        student = logs(states[:, VECTORS - 1 : -1])
        divergence = (teacher.exp() * (teacher - student)).sum(-1).mean()
        answer = student[:, QUERY:].gather(2, text[:, QUERY:, None])
        return divergence - answer.mean()

    loss_of = torch.compile(loss_of_all, dynamic=False) if compiled else loss_of_all

    def add_gradients() -> Tensor:
        loss = loss_of()
        loss.backward()
        return loss.detach()

    return another_step(method, add_gradients)


@cache
def models(shape: str) -> tuple[tuple[FrozenLLM, BuiltMethod], tuple[FrozenLLM, BuiltMethod]]:
    """Return our LLM and method, and those of the other ways, which have none of our kernels."""
    ours = pair(shape, VECTORS)
    with without_kernels():
        return ours, pair(shape, VECTORS)


@cache
def plain(shape: str, number: int, contexts: tuple[int, ...]) -> Step:
    """Return the plain step of so many episodes; it is compiled once."""
    return plain_step(*models(shape)[1], episodes(number, contexts), compiled=on_gpu())


#: What steps of a shape and so many episodes take that run their teacher.
_running: dict[tuple[str, int], float] = {}


def step_with_a_teacher(
    shape: str, number: int, bars: dict[str, float], contexts: tuple[int, ...] = CONTEXTS
) -> Row:
    """Compare a step whose teacher runs; its memory in one micro-batch, of 2 without a GPU."""
    llm, method = models(shape)[0]
    batch = episodes(number, contexts)
    few = number if on_gpu() else 2
    memory = {
        "ours": our_step(llm, method, lambda: batch[:few], micro_batch_size=few),
        "plain": plain(shape, few, contexts),
    }
    name = f"distillation step, {shape}, {number} episodes"
    row = _compare(name, shape, batch, lambda: batch, plain(shape, number, contexts), bars, memory)
    _running[shape, number] = row.seconds["ours"]
    return row


def step_with_kept_states(shape: str, number: int, bars: dict[str, float]) -> Row:
    """Compare a step that reads the teacher's states from disk with others whose teacher runs."""
    batch = episodes(number)
    with tempfile.TemporaryDirectory() as folder:
        states = cached_states(models(shape)[0][0], batch, Path(folder))

        def read() -> list[Example]:
            return [replace(example, teacher_states=states[i]) for i, example in enumerate(batch)]

        name = f"distillation step, {shape}, {number} episodes, the teacher's states kept"
        if (shape, number) in _running:
            bars = bars | {"ours": _running[shape, number]}
        return _compare(name, shape, batch, read, plain(shape, number, CONTEXTS), bars, None)


def _compare(
    name: str,
    shape: str,
    batch: list[Example],
    read: Callable[[], list[Example]],
    plain: Step,
    bars: dict[str, float],
    memory: dict[str, Step] | None,
) -> Row:
    ours, others = models(shape)
    return compare(
        name,
        our_step(*ours, read),
        {"authors": authors_step(*others, batch), "plain": plain},
        lambda first, second: abs(float(first) - float(second)),
        tolerance=0.1 if on_gpu() else 1e-3,
        operations=TrainingOperations(*ours, WEIGHTS, "finetune", OBJECTIVE)(read()),
        memory=memory,
        bars=bars,
        repeats=5 if on_gpu() else 3,
        calls=5 if on_gpu() else 1,
    )


def cached_states(llm: FrozenLLM, batch: list[Example], folder: Path) -> TeacherStates:
    """Write the teacher's states of a batch as `mend.training.teacher` does, and open them."""
    states = [one.cpu() for one in teacher_states(llm, batch, "finetune")]
    kept = {str(i): one for i, one in enumerate(states)}
    save_tensors(kept, folder / "000000.safetensors", {"LLM": llm.fingerprint})
    return TeacherStates(folder, llm)


def step_launches() -> int:
    """Return how many kernels a step of 8 starts that is not compiled, of the paper's layers."""
    llm, method = pair("thin", VECTORS, of=torch.bfloat16)
    batch = episodes(8)
    return count_launches(
        our_step(llm, method, lambda: batch, compile=False, micro_batch_size=len(batch))
    )


def launches() -> str:
    """Return a sentence on the launches of a step."""
    number = step_launches()
    what = "kernels" if on_gpu() else "operators that compute, which are about a GPU's kernels"
    note = (
        f"a step of 8 episodes of GPT-2 large's and small's layers, not compiled, starts "
        f"{number:,} {what} (at most {MOST_LAUNCHES:,})"
    ) + (" **missed**" if number > MOST_LAUNCHES else "")
    print(note, flush=True)
    return note


def parts() -> list[Callable[[], Row | str]]:
    """Return what is to be measured, in order."""
    if not on_gpu():
        return [
            launches,
            lambda: step_with_a_teacher("small", 8, {"authors": 2.0}),
            lambda: step_with_kept_states("small", 8, {"authors": 3.0}),
        ]
    paper, bars = paper_shape(), {"plain": 1.0, "memory": 1.0}
    return [
        launches,
        lambda: step_with_a_teacher(paper, 8, {"utilisation": 0.4, **bars}),
        lambda: step_with_a_teacher(paper, 32, {"utilisation": 0.5, **bars}),
        lambda: step_with_kept_states(paper, 8, {"authors": 3.0}),
        # 35 ms on an H200.
        lambda: step_with_a_teacher("SmolLM2-135M", 8, {"ours": 0.035, **bars}, (LONGEST,)),
    ]


if __name__ == "__main__":
    sys.exit(show(parts()))
