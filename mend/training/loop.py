"""Training a method in one stage: pretraining on chunks or finetuning on episodes (section 3.2)."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mend.atomic_io import atomic_file
from mend.configuration.specs.training import LossSettings, TrainingSettings
from mend.data.cuts import CutCounts, add_cuts
from mend.data.examples import Example
from mend.errors import UserError
from mend.methods.built import BuiltMethod
from mend.models.compilation import uncompiled
from mend.models.frozen_llm import FrozenLLM
from mend.models.sharding import is_sharded
from mend.progress import Progress, logger
from mend.training.batches import batches
from mend.training.checkpoint import Checkpoint
from mend.training.distributed import Processes
from mend.training.gradients import BatchGradients
from mend.training.operations import TrainingOperations
from mend.training.signals import Stopped

#: Steps after which several processes ask each other whether one was asked to stop.
ASK_EVERY = 10


@dataclass
class TrainingResult:
    """The record of a training run, which a checkpoint holds while it lasts.

    best_step: the step whose weights the method holds at the end; best_score: its dev score, minus
    infinity without early stopping. seconds: over all attempts; step_seconds: in steps alone,
    without scores and checkpoints. examples: with repetitions. flops: floating-point operations
    that all steps needed (`mend.training.operations`); NaN if they are not known.
    metrics: a row for each logged step (see `write_metrics`).
    cuts: what was cut of the examples to fit, by task, with repetitions (`mend.data.cuts`).
    """

    steps: int = 0
    best_step: int = 0
    best_score: float = -math.inf
    evaluations_without_improvement: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    step_seconds: float = 0.0
    examples: int = 0
    flops: float = 0.0
    metrics: list[dict] = field(default_factory=list)
    cuts: dict[str, CutCounts] = field(default_factory=dict)


def learning_rate_factor(step: int, training: TrainingSettings) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then the schedule."""
    steps = training.steps
    warmup = int(training.warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if training.schedule == "linear":
        return 1.0 - done
    if training.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


def train(
    llm: FrozenLLM,
    method: BuiltMethod,
    examples: Sequence[Example],
    training: TrainingSettings,
    objective: LossSettings,
    dev_score: Callable[[], float] | None = None,
    checkpoint: Checkpoint | None = None,
    name: str = "train",
    received_signal: Callable[[], int] = lambda: 0,
    processes: Processes | None = None,
) -> TrainingResult:
    """Train `method` on `examples` in their order, and leave it with its best weights.

    training, objective: the specification's parts of these names. Each step takes `batch_size`
    examples, in micro-batches of `micro_batch_size` (fewer where memory runs out), whose gradients
    add up to those of the whole batch.
    dev_score: higher is better; evaluated every `early_stopping.every` steps and after the last;
    training ends after `early_stopping.patience` evaluations without improvement. Without it the
    last weights are kept.
    received_signal: the number of a signal that asks to stop, 0 if there is none.
    processes: those that train together; every one takes its shard of each batch, and comes to
    the same weights.
    Raises UserError if a loss or a gradient stops being finite, and Stopped, with a checkpoint
    saved, after such a signal.
    """
    processes = processes or Processes()
    _check_batch_size(llm, training, processes)
    if not processes.is_first:
        torch.manual_seed(training.seed + processes.rank)  # its own dropout
    optimizer = torch.optim.AdamW(
        [parameter for parameter in method.parameters() if parameter.requires_grad],
        lr=training.learning_rate,
        betas=tuple(training.betas),
        weight_decay=training.weight_decay,
        fused=llm.device.type in ("cpu", "cuda"),
    )
    gradients = BatchGradients(llm, method, optimizer, training, objective, processes)
    operations = TrainingOperations(llm, method, training.losses, training.stage, objective)
    result, best_weights = TrainingResult(), None
    logger.info("%s: training on %s", name, llm.device)

    def restore(state: dict) -> tuple[TrainingResult, dict[str, Tensor] | None]:
        restored = TrainingResult(**state["result"]), state["best_weights"]
        gradients.restore(state["gradients"])
        return restored

    if checkpoint and (restored := checkpoint.load(method, optimizer, processes, restore)):
        result, best_weights = restored
        logger.info("%s: going on from step %d", name, result.steps)
    stopping = training.early_stopping if dev_score else None
    progress = Progress(name, training.steps, start=result.steps)
    began = time.monotonic()

    method.train()
    unread: list[dict[str, Tensor]] = []
    cuts: list[dict[str, CutCounts]] = []
    described = ""
    steps = range(training.steps if result.stopped_early else result.steps, training.steps)
    workers = int(llm.device.type == "cuda")
    for batch in batches(examples, training.batch_size, steps, processes, workers):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * learning_rate_factor(result.steps, training)
        losses, norm = gradients.compute(batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        result.steps += 1
        result.examples += training.batch_size
        # The others' shares of the batch are about like this one.
        result.flops += operations(batch) * training.batch_size / len(batch)
        unread.append({"gradient_norm": norm, **losses})
        cuts += [example.cuts for example in batch]
        progress.update(result.steps, described)

        last = result.steps == training.steps
        scores = stopping and (last or result.steps % stopping.every == 0)
        saves = checkpoint and result.steps % training.checkpoint_every == 0
        logs = result.steps == 1 or result.steps % training.log_every == 0
        alone = processes.count == 1
        asks = bool(received_signal()) if alone else result.steps % ASK_EVERY == 0
        if not (last or scores or saves or logs or asks):
            continue

        # Here a GPU is waited for.
        row = _read(unread, result.steps, name, training, checkpoint)
        unread, described = [], _describe(row)
        began = _add_seconds(result, began, in_steps=True)
        # The last step's weights are a candidate, too.
        if scores:
            with uncompiled(llm.model):
                row["dev_score"] = score = processes.all_gather(dev_score())[0]
            if score > result.best_score:
                result.best_score, result.best_step = score, result.steps
                result.evaluations_without_improvement = 0
                best_weights = {key: value.clone() for key, value in method.state_dict().items()}
            else:
                result.evaluations_without_improvement += 1
                patience = stopping.patience
                result.stopped_early = result.evaluations_without_improvement >= patience
        if scores or logs:
            result.metrics.append({"step": result.steps, **row})

        signals, found = zip(*processes.all_gather((received_signal(), cuts)), strict=True)
        number, cuts = max(signals), []
        for of_example in (one for of_process in found for one in of_process):
            add_cuts(result.cuts, of_example)
        began = _add_seconds(result, began)
        if checkpoint and (number or saves):
            state = {"result": vars(result), "best_weights": best_weights}
            state["gradients"] = gradients.state()
            checkpoint.save(method, optimizer, state, processes)
            if processes.is_first:
                write_metrics(result.metrics, checkpoint.path.with_name("metrics.jsonl"))
            began = _add_seconds(result, began)
        if result.stopped_early:
            break
        if number and not last:
            saved = f"; {checkpoint.path} is saved: start it again to go on" if checkpoint else ""
            by = signal.Signals(number).name
            raise Stopped(number, f"{name}: stopped by {by} after step {result.steps}{saved}")

    if best_weights is None:
        result.best_step = result.steps
    else:
        method.load_state_dict(best_weights)
    return result


def _add_seconds(result: TrainingResult, began: float, in_steps: bool = False) -> float:
    """Add the time since `began` to a result; return the time of now."""
    now = time.monotonic()
    result.seconds += now - began
    if in_steps:
        result.step_seconds += now - began
    return now


def _read(
    unread: Sequence[Mapping[str, Tensor]],
    steps: int,
    name: str,
    training: TrainingSettings,
    checkpoint: Checkpoint | None,
) -> dict[str, float]:
    """Return the last step's losses and norm; raises UserError if one since is not finite.

    unread: of the steps since they were last read, `steps` by now. They are read together: each
    reading waits for a GPU.
    """
    numbers = torch.stack([torch.stack([*row.values()]).float() for row in unread]).tolist()
    for number, row in enumerate(numbers, start=steps - len(unread)):
        of_step = dict(zip(unread[0], row, strict=True))
        where = f"{name}, step {number}"
        _check_finite(of_step["loss"], of_step["gradient_norm"], where, training, checkpoint)
    return of_step


def _check_batch_size(llm: FrozenLLM, training: TrainingSettings, processes: Processes) -> None:
    """Raise UserError if the processes cannot share a batch."""
    key, size = f"training.{training.stage}.batch_size", training.batch_size
    if processes.count > size:
        raise UserError(
            f"{key}: {size} examples are fewer than the {processes.count} processes that share "
            "them; start fewer processes"
        )
    if is_sharded(llm.model) and size % processes.count:
        raise UserError(
            f"{key}: {size} examples cannot be shared evenly by {processes.count} processes, as a "
            "sharded LLM needs it"
        )


def _check_finite(
    loss: float, norm: float, where: str, training: TrainingSettings, checkpoint: Checkpoint | None
) -> None:
    """Raise UserError unless both are finite."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    kept = ""
    if checkpoint and checkpoint.path.exists():
        kept = f"the last good checkpoint is kept in {checkpoint.path}; "
    raise UserError(
        f"{where}: {what}; {kept}lower learning_rate ({training.learning_rate}) "
        "or use a wider dtype for the LLM"
    )


#: What a line of metrics has besides losses and the dev score.
_NOT_TOLD = ("step", "loss", "gradient_norm", "learning_rate")


def _describe(losses: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.3f}" for name, value in losses.items() if name not in _NOT_TOLD
    )


def write_metrics(metrics: Sequence[dict], path: str | Path) -> None:
    """Write one JSON object a line: step, losses, gradient_norm and, where asked, dev_score."""
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in metrics)
