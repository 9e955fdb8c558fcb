"""Training a method in one stage: pretraining on chunks or finetuning on episodes (section 3.2)."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mend.atomic_io import whole_file
from mend.data.examples import Example
from mend.errors import UserError
from mend.methods.base import Method
from mend.models.frozen_llm import FrozenLLM
from mend.models.sharding import is_sharded
from mend.progress import Progress, logger
from mend.training.checkpoint import Checkpoint
from mend.training.distributed import Processes
from mend.training.gradients import BatchGradients
from mend.training.losses import LOSSES
from mend.training.signals import Stopped


@dataclass
class Outcome:
    """What training came to.

    best_step: the step whose weights the method holds now; seconds: over all attempts.
    flops: floating-point operations of all steps, from counting those of the first.
    """

    steps: int = 0
    best_step: int = 0
    best_score: float = -math.inf
    stopped_early: bool = False
    seconds: float = 0.0
    examples: int = 0
    flops: float = 0.0
    metrics: list[dict] = field(default_factory=list)


def learning_rate_factor(step: int, training: dict) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then the schedule."""
    steps = training["steps"]
    warmup = int(training["warmup_fraction"] * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if training["schedule"] == "linear":
        return 1.0 - done
    if training["schedule"] == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0


def train(
    llm: FrozenLLM,
    method: Method,
    examples: Sequence[Example],
    training: dict,
    protocol: dict,
    dev_score: Callable[[], float] | None = None,
    checkpoint: Checkpoint | None = None,
    name: str = "train",
    asked_to_stop: Callable[[], int] = lambda: 0,
    processes: Processes | None = None,
) -> Outcome:
    """Train `method` on `examples` in their order, and leave it with its best weights.

    training: the specification's part of that name. Each step takes `batch_size` examples, in
    pieces of `micro_batch_size` (fewer where memory runs out), whose gradients are those of the
    whole batch.
    dev_score: higher is better; asked every `early_stopping.every` steps, and training ends after
    `early_stopping.patience` times without a better one. Without it the last weights are kept.
    asked_to_stop: a signal's number once one has asked to stop, else 0; asked after each step.
    processes: those that train together; every one takes its share of each batch, and comes to
    the same weights.
    Raises UserError if a loss or a gradient stops being finite, and Stopped, with a checkpoint
    saved, if asked to stop before the end.
    """
    processes = processes or Processes()
    if processes.count > training["batch_size"]:
        raise UserError(
            f"training.{training['stage']}.batch_size: {training['batch_size']} examples are fewer "
            f"than the {processes.count} processes that share them; start fewer processes"
        )
    if is_sharded(llm.model) and training["batch_size"] % processes.count:
        raise UserError(
            f"training.{training['stage']}.batch_size: {training['batch_size']} examples cannot be "
            f"shared evenly by {processes.count} processes, as a sharded LLM needs it"
        )
    if not processes.is_first:
        torch.manual_seed(training["seed"] + processes.rank)  # its own dropout
    optimizer = torch.optim.AdamW(
        [parameter for parameter in method.parameters() if parameter.requires_grad],
        lr=training["learning_rate"],
        betas=tuple(training["betas"]),
        weight_decay=training["weight_decay"],
        fused=llm.device.type in ("cpu", "cuda"),
    )
    gradients = BatchGradients(llm, method, optimizer, training, protocol, processes)
    outcome, best, waited = Outcome(), None, 0
    logger.info("%s: training on %s", name, llm.device)
    if checkpoint and (state := checkpoint.load(method, optimizer, processes)):
        gradients.restore(state["gradients"])
        outcome, best, waited = Outcome(**state["outcome"]), state["best"], state["waited"]
        logger.info("%s: going on from step %d", name, outcome.steps)
    stopping = training["early_stopping"] if dev_score else None
    progress = Progress(name, training["steps"], start=outcome.steps)
    began, before = time.monotonic(), outcome.seconds

    method.train()
    while outcome.steps < training["steps"] and not outcome.stopped_early:
        step = outcome.steps
        for group in optimizer.param_groups:
            group["lr"] = training["learning_rate"] * learning_rate_factor(step, training)
        first = step * training["batch_size"]
        batch = [examples[first + index] for index in processes.share(training["batch_size"])]
        losses, norm, flops = gradients.compute(batch, count_flops=step == 0)
        outcome.flops = outcome.flops or flops
        _check_finite(losses["loss"], norm, f"{name}, step {step}", training, checkpoint)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        outcome.steps += 1
        outcome.examples += training["batch_size"]
        outcome.seconds = before + time.monotonic() - began

        asked = stopping and outcome.steps % stopping["every"] == 0
        if asked:
            losses["dev_score"] = score = processes.gather(dev_score())[0]
            if score > outcome.best_score:
                outcome.best_score, outcome.best_step, waited = score, outcome.steps, 0
                best = {key: value.clone() for key, value in method.state_dict().items()}
            else:
                waited += 1
                outcome.stopped_early = waited >= stopping["patience"]
        if asked or outcome.steps % training["log_every"] == 0 or step == 0:
            outcome.metrics.append({"step": outcome.steps, "gradient_norm": norm, **losses})
        progress.update(outcome.steps, _describe(losses))
        stop = max(processes.gather(asked_to_stop()))
        if checkpoint and (stop or outcome.steps % training["checkpoint_every"] == 0):
            state = {"outcome": vars(outcome), "best": best, "waited": waited}
            state["gradients"] = gradients.state()
            checkpoint.save(method, optimizer, state, processes)
            if processes.is_first:
                write_metrics(outcome.metrics, checkpoint.path.with_name("metrics.jsonl"))
        if stop and outcome.steps < training["steps"] and not outcome.stopped_early:
            saved = f"; {checkpoint.path} is saved: start it again to go on" if checkpoint else ""
            raise Stopped(
                stop,
                f"{name}: stopped by {signal.Signals(stop).name} after step {outcome.steps}{saved}",
            )

    if best is None:
        outcome.best_step = outcome.steps
    else:
        method.load_state_dict(best)
    outcome.flops *= outcome.steps
    return outcome


def _check_finite(
    loss: float, norm: float, where: str, training: dict, checkpoint: Checkpoint | None
) -> None:
    """Raise UserError unless both are finite; the weights are still those of the step before."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    kept = ""
    if checkpoint and checkpoint.path.exists():
        kept = f"the last good checkpoint is kept in {checkpoint.path}; "
    raise UserError(
        f"{where}: {what}; {kept}lower learning_rate ({training['learning_rate']}) "
        "or use a wider dtype for the LLM"
    )


def _describe(losses: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {losses[name]:.3f}" for name in (*LOSSES, "dev_score") if name in losses
    )


def write_metrics(metrics: Sequence[dict], path: str | Path) -> None:
    """Write one JSON object a line: step, losses, gradient_norm and, where asked, dev_score."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in metrics)
