"""What pretraining the pocket models has in common: the loss, the optimisers, the loop, the folder.

The loss is next-token prediction on all tokens, in which a row's answer counts `ANSWER_WEIGHT`
times. The hidden matrices are updated by Muon, everything else by AdamW.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from mend.atomic_io import atomic_folder, write_text
from mend.pocket.tokenizer import build_tokenizer
from mend.progress import Progress

ANSWER_WEIGHT = 6.0
HIDDEN_LEARNING_RATE, OTHER_LEARNING_RATE = 1.8e-3, 1.5e-3
WARMUP_STEPS, DECAY_FROM = 100, 0.4
EVERY_BURSTINESS = (1, 2, 3, None, None, None)
EASY_KINDS = {
    "label": 0.25,
    "glossary": 0.35,
    "nli": 0.08,
    "paraphrase": 0.08,
    "pick": 0.08,
    "mate": 0.06,
    "name": 0.02,
    "look-up": 0.08,
}


@dataclass(frozen=True)
class Phase:
    """A part of training: until which share of the steps, on batches of which shape and text.

    batch_size: documents, or windows of them; window: tokens of one, or of one context.
    """

    until: float
    batch_size: int
    window: int
    burstiness: tuple[int | None, ...]
    kinds: Mapping[str, float]


def phase_index(phases: tuple[Phase, ...], step: int, steps: int) -> int:
    """Return which phase a step is in."""
    return next(i for i, phase in enumerate(phases) if step < phase.until * steps)


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the highest learning rate: linear warm-up, constant, linear decay."""
    left = (1 - step / steps) / (1 - DECAY_FROM)
    return min(1.0, (step + 1) / WARMUP_STEPS, max(left, 0.02))


def fit(model, name: str, batches: Iterable, loss_of: Callable, steps: int) -> list[float]:
    """Train the parameters of `model` that require gradients; return each step's loss in nats.

    loss_of: takes the model and a batch, returns the loss.
    """
    model.train()
    optimizers = _optimizers(model)
    progress = Progress(f"pretraining {name}", steps)
    losses = []
    for step, batch in enumerate(batches):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * learning_rate_factor(step, steps)
        loss = loss_of(model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        progress.update(step + 1, f"loss {losses[-1]:.3f}")
    model.eval()
    return losses


def answer_weighted_loss(
    logits: torch.Tensor, targets: torch.Tensor, answers: torch.Tensor
) -> torch.Tensor:
    """Return the weighted mean cross-entropy of the targets, in nats.

    Args:
        logits: (batch, n, vocabulary), what predicts each target; targets, answers: (batch, n).
    """
    entropy = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    weight = 1 + (ANSWER_WEIGHT - 1) * answers.flatten()
    return (entropy * weight).sum() / weight.sum()


def _optimizers(model) -> list[torch.optim.Optimizer]:
    hidden, other = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_block = (".h." in name or ".block." in name) and "attention_bias" not in name
        (hidden if in_block and parameter.ndim == 2 else other).append(parameter)
    optimizers = [
        torch.optim.Muon(
            hidden, lr=HIDDEN_LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(other, lr=OTHER_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest"] = group["lr"]
    return optimizers


def save(model, folder: Path, readme: str) -> None:
    """Write the model (stored in float16, read as float32), tokenizer and README.md to `folder`."""
    with atomic_folder(folder) as temporary:
        copy.deepcopy(model).half().save_pretrained(temporary)
        build_tokenizer().save_pretrained(temporary)
        configuration = json.loads((temporary / "config.json").read_text(encoding="utf-8"))
        configuration["dtype"] = "float32"
        write_text(json.dumps(configuration, indent=2) + "\n", temporary / "config.json")
        write_text(readme, temporary / "README.md")
