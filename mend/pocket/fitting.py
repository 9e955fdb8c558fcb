"""What pretraining the pocket models has in common: the text, the optimiser, the loop, the folder.

One code path serves processors and a GPU: it takes a GPU if there is one, and text is made
beforehand by as many processes as there are processors. The loss is plain next-token prediction,
the optimiser AdamW.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mend.atomic_io import atomic_folder, write_text
from mend.pocket.text import Mixture, training_text
from mend.pocket.tokenizer import build_tokenizer
from mend.progress import Progress

DOCUMENTS = 400_000
WARMUP_STEPS, DECAY_FROM = 200, 0.5
WEIGHT_DECAY = 0.1
EASY = Mixture(
    burstiness=(1, 1, 2),
    list_share=0.9,
    kind_shares=(
        *(("label", 0.5), ("nli", 0.1), ("paraphrase", 0.1)),
        *(("pick", 0.15), ("look-up", 0.15)),
    ),
)


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        steps: number of steps.
        batch_size: windows in a step.
        learning_rate: the highest one.
        seed: that of the initialisation and of the order of windows.
        easy_share: the part of the steps that reads easy text, at first.
        faster: how many times as fast the parameters learn whose names have this in them.
    """

    steps: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    easy_share: float = 0.15
    faster: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """Documents on the device that trains: what training starts with, and the mixture.

    Each is tokens and where rows begin, (documents, WINDOW), int16 and bool.
    """

    easy: tuple[torch.Tensor, torch.Tensor]
    mixed: tuple[torch.Tensor, torch.Tensor]


def make_text(documents: int, device: torch.device) -> Text:
    """Make the training text, of which a fifth is easy: bursty lists of few words."""
    parts = ((documents // 4, EASY, "easy 0"), (documents, Mixture(), "full 0"))
    return Text(
        *(
            tuple(torch.from_numpy(array).to(device) for array in training_text(*part))
            for part in parts
        )
    )


def device_here() -> torch.device:
    """Return the GPU if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the highest learning rate: linear warm-up, constant, linear decay."""
    left = (1 - step / steps) / (1 - DECAY_FROM)
    return min(1.0, (step + 1) / WARMUP_STEPS, max(left, 0.02))


def fit(model, name: str, text: Text, loss_of: Callable, training: Training) -> list[float]:
    """Train the parameters of `model`; return the mean loss, in nats, of each hundred steps.

    loss_of: takes the model, tokens (int64) and row starts (bool), both (batch, WINDOW), and
        returns the loss.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(training.seed)
    model.train()
    optimizer = _optimizer(model, training)
    progress = Progress(f"pretraining {name}", training.steps)
    losses, total = [], torch.zeros((), device=device)
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * learning_rate_factor(step, training.steps)
        tokens, starts = text.easy if step < training.easy_share * training.steps else text.mixed
        chosen = torch.randint(
            len(tokens), (training.batch_size,), device=device, generator=generator
        )
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(model, tokens[chosen].long(), starts[chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach()
        # The loss is seldom asked for: a GPU would wait for each answer.
        if (step + 1) % 100 == 0 or step + 1 == training.steps:
            losses.append(total.item() / (step % 100 + 1))
            total.zero_()
            progress.update(step + 1, f"loss {losses[-1]:.3f}")
    model.eval()
    return losses


def _optimizer(model, training: Training) -> torch.optim.Optimizer:
    parameters = defaultdict(list)
    for name, parameter in model.named_parameters():
        times = next((times for part, times in training.faster.items() if part in name), 1)
        in_block = (".h." in name or ".block." in name) and parameter.ndim == 2
        decay = WEIGHT_DECAY if in_block and times == 1 else 0.0
        parameters[times * training.learning_rate, decay].append(parameter)
    groups = [
        {"params": of_group, "lr": rate, "highest": rate, "weight_decay": decay}
        for (rate, decay), of_group in parameters.items()
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def save(model, folder: Path, readme: str) -> None:
    """Write the model (stored in float16, read as float32), tokenizer and README.md to `folder`."""
    with atomic_folder(folder) as temporary:
        copy.deepcopy(model).cpu().half().save_pretrained(temporary)
        build_tokenizer().save_pretrained(temporary)
        configuration = json.loads((temporary / "config.json").read_text(encoding="utf-8"))
        configuration["dtype"] = "float32"
        write_text(json.dumps(configuration, indent=2) + "\n", temporary / "config.json")
        write_text(readme, temporary / "README.md")
