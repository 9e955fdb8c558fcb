"""What each of `mend.models.kernels` gains: with it beside without it, the others being on.

`python benchmarks/kernel_gains.py [--repeats N]`: training steps and scoring, with pocket models at
the main job's shapes, and with random models of GPT-2's shape at the paper's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from distillation import episodes, our_step
from models import mend, pair, paper_shape, vanilla_icl
from scoring import items
from side_by_side import HEADER, compare
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mend import pocket as pocket_world
from mend.configuration.specs.training import Losses
from mend.data.examples import Example
from mend.data.items import MultipleChoiceItem
from mend.evaluation.scoring import score_items
from mend.models.distiller import DistillerModel, distilling_part
from mend.models.frozen_llm import FrozenLLM
from mend.models.kernels import KERNELS
from mend.models.loading import frozen_llm
from mend.training.losses import teacher_states

POCKET = Path(pocket_world.__file__).parent / "models"
# Tokens of 16 pocket demonstrations, of a query, and of what follows a chunk's demonstrations.
SHOWN, QUERY, REST, VECTORS = 110, 7, 26, 16


def pocket(family: str) -> dict[str, Callable]:
    """Return what is timed with the pocket models "gpt2" or "t5"."""
    auto = AutoModelForCausalLM if family == "gpt2" else AutoModelForSeq2SeqLM
    model = frozen_llm(auto.from_pretrained(POCKET / family), tokenizer=None)
    backbone = AutoModel.from_pretrained(POCKET / f"{family}-small")
    backbone = distilling_part(backbone, "decoder" if family == "t5" else None)
    method = mend(model, DistillerModel(backbone, VECTORS, model.width))
    chunks = [Example(ids, ids, [(tokens(REST), [])]) for ids in map(tokens, range(93, 103))]
    states = teacher_states(model, chunks, "pretrain")
    chunks = [replace(one, teacher_states=of) for one, of in zip(chunks, states, strict=True)]
    queries = [(tokens(QUERY), tokens(2)) for _ in range(4)]
    shown = [Example(ids, ids, queries) for ids in map(tokens, range(SHOWN - 8, SHOWN))]
    own = [
        MultipleChoiceItem(context, tokens(SHOWN), tokens(QUERY), [tokens(n) for n in (1, 2, 3, 2)])
        for context in range(64)
    ]
    same = [MultipleChoiceItem(0, tokens(SHOWN), one.query, one.options) for one in own]
    return parts(model, method, (chunks, shown), 10, (own, same))


def large() -> dict[str, Callable]:
    """Return what is timed with random models of GPT-2's shape."""
    return parts(*pair(paper_shape(), 100), ([], episodes(4)), 2, (items(4, 1), items(1, 4)))


def parts(
    model: FrozenLLM, method, examples, micro_batch_size: int, batches
) -> dict[str, Callable]:
    """Return steps on chunks and episodes, and scoring with items' own or a shared context."""
    found = {}
    for stage, batch in zip(("pretrain", "finetune"), examples, strict=True):
        if batch:
            losses = Losses(distill=1.0, pred=float(stage == "finetune"))
            changes = {"stage": stage, "losses": losses, "micro_batch_size": micro_batch_size}
            step = our_step(model, method, lambda batch=batch: batch, **changes)
            found[f"{stage} step"] = lambda step=step: float(step())
    for contexts, batch in zip(("own contexts", "a shared context"), batches, strict=True):
        for name, how in (("tokens", vanilla_icl(model)), ("vectors", method)):
            found[f"scoring, {name}, {contexts}"] = lambda batch=batch, how=how: score_items(
                model, how, batch
            )
    return found


def tokens(length: int) -> list[int]:
    """Return random tokens that every model knows."""
    return torch.randint(5, 150, (length,)).tolist()


def difference(first, second) -> float:
    """Return the largest difference between two losses or two lists of scores."""
    return (torch.tensor(first) - torch.tensor(second)).abs().max().item()


def main() -> None:
    """Print a table; the plain way is the one without the kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=KERNELS, default=KERNELS)
    options = parser.parse_args()
    print(HEADER)
    models = {"pocket GPT-2": lambda: pocket("gpt2"), "pocket T5": lambda: pocket("t5")}
    for name, build in (models | {"GPT-2's shape": large}).items():
        for kernel in options.only:
            with_it, without = ",".join(KERNELS), ",".join(set(KERNELS) - {kernel})
            ways = {}
            for chosen in (with_it, without):
                os.environ["MEND_KERNELS"] = chosen
                torch.manual_seed(0)
                ways[chosen] = {part: within(chosen, run) for part, run in build().items()}
            for part, ours in ways[with_it].items():
                title = f"{kernel}: {name}, {part}"
                plain = {"plain": ways[without][part]}
                compare(title, ours, plain, difference, 1e-3, repeats=options.repeats)


def within(chosen: str, run: Callable) -> Callable:
    """Return `run` with the chosen kernels on."""

    def run_with_them():
        os.environ["MEND_KERNELS"] = chosen
        return run()

    return run_with_them


if __name__ == "__main__":
    main()
