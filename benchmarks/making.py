"""Making contexts of keys and values, many together.

SnapKV's plain way is what anybody would write: a pass over each whole text that returns all of its
attention weights. A cartridge's is the same training, a set at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from models import llm, on_gpu, paper_shape, random_tokens, run_spec, without_kernels
from scoring import CONTEXT
from side_by_side import Row, compare, show
from torch import Tensor
from transformers import DynamicCache

from mend.data.demonstrations import Demonstrations
from mend.methods.built import build_method
from mend.models.contexts import KeyValueContexts
from mend.models.frozen_llm import FrozenLLM

KEEP, WINDOW, KERNEL = 100, 16, 5
SHOTS, TOKENS, LENGTH, STEPS = 16, 8, 50, 4


def sets(count: int) -> list[Demonstrations]:
    """Return demonstration sets, all as long."""
    generator = torch.Generator().manual_seed(3)

    def pair() -> tuple[list[int], list[int]]:
        return random_tokens(TOKENS - 2, generator), random_tokens(2, generator)

    return [Demonstrations([pair() for _ in range(SHOTS)]) for _ in range(count)]


def texts(count: int) -> list[list[int]]:
    """Return texts of several lengths."""
    generator = torch.Generator().manual_seed(4)
    return [random_tokens(CONTEXT - 10 * number, generator) for number in range(count)]


@torch.no_grad()
def plain_snapkv(model: FrozenLLM, given: list[list[int]]) -> list[Tensor]:
    """Return the values that stay, (heads, kept, size) of each layer of each text."""
    found = []
    for tokens in given:
        with model.attention_weights():
            output = model.body(
                torch.tensor([tokens], device=model.device),
                past_key_values=DynamicCache(),
                output_attentions=True,
            )
        for layer, weights in zip(output.past_key_values.layers, output.attentions, strict=True):
            votes = weights[0, :, -WINDOW:, :-WINDOW].float().sum(1)
            pooled = torch.nn.functional.avg_pool1d(votes, KERNEL, 1, KERNEL // 2)
            places = pooled.topk(KEEP - WINDOW).indices.sort().values
            last = torch.arange(len(tokens) - WINDOW, len(tokens), device=model.device)
            places = torch.cat([places, last.expand(len(places), -1)], dim=1)[..., None]
            found.append(layer.values[0].gather(1, places.expand(-1, -1, layer.values.shape[3])))
    return found


def values(contexts: KeyValueContexts) -> list[Tensor]:
    """Return what `plain_snapkv` does, of contexts that are all as long."""
    return [layer[number] for number in range(len(contexts.lengths)) for layer in contexts.values]


def farthest(first: list[Tensor], second: list[Tensor]) -> float:
    """Return the mean difference, in standard deviations of the values.

    Votes that are almost equal are ranked by rounding: so a few values may be others.
    """
    one, other = torch.stack(first).float(), torch.stack(second).float()
    return ((one - other).abs().mean() / one.std()).item()


def snapkv() -> Row:
    """Compare SnapKV of several texts together with a plain pass for each."""
    given, model = texts(16 if on_gpu() else 2), llm(paper_shape())
    with without_kernels():
        plain = llm(paper_shape())
    method = build_method(model, run_spec("snapkv", keep=KEEP, window=WINDOW, kernel=KERNEL))

    @torch.no_grad()
    def ours() -> list[Tensor]:
        return values(method.contexts(model, given))

    return compare(
        f"SnapKV, {paper_shape()}, {KEEP} of {CONTEXT}",
        ours,
        {"plain": lambda: plain_snapkv(plain, given)},
        farthest,
        tolerance=0.1 if on_gpu() else 0.01,
        operations=sum(map(method.making_operations, given)),
        bars={"plain": 1.0},
    )


def cartridges() -> Row:
    """Compare cartridges that are trained together with those that are trained one by one."""
    shape = paper_shape() if on_gpu() else "pocket"
    given, model = sets(4), llm(shape)
    method = build_method(model, run_spec("cartridge", length=LENGTH, steps=STEPS))

    @torch.no_grad()
    def ours() -> list[Tensor]:
        return values(method.contexts(model, given))

    @torch.no_grad()
    def one_by_one() -> list[Tensor]:
        return [layer for one in given for layer in values(method.contexts(model, [one]))]

    return compare(
        f"cartridges, {shape}, {STEPS} steps for {len(given)} sets, beside one by one",
        ours,
        {"plain": one_by_one},
        farthest,
        tolerance=0.1 if on_gpu() else 0.01,
        operations=sum(map(method.making_operations, given)),
    )


def parts() -> list[Callable[[], Row]]:
    """Return what is to be measured, in order."""
    return [snapkv, cartridges]


if __name__ == "__main__":
    sys.exit(show(parts()))
