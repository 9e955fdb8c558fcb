"""Scoring options: a context read once for all that follows it, beside other ways.

The authors' way is what MetaICL's code does: every option is a row of its own, context and all. The
plain way reads a context once into a `DynamicCache`, repeats that for all options of all its
queries, and has logits only where an option is predicted. (Rows that hold their contexts, many at a
time, are the other plain way: with four options a query they read four times as much or more, so
that on a GPU and elsewhere this one is the faster.) It is not compiled: its shapes change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

import torch
from models import on_gpu, pair, paper_shape, random_tokens, vanilla_icl, without_kernels
from side_by_side import Row, compare, show
from torch import Tensor
from transformers import DynamicCache

from mend.data.items import MultipleChoiceItem
from mend.evaluation.scoring import score_items
from mend.methods.built import BuiltMethod
from mend.models.contexts import TokenContexts
from mend.models.frozen_llm import FrozenLLM
from mend.models.operations import layers_of

CONTEXT, QUERY, OPTION = 900, 56, 3
QUERIES, OPTIONS, VECTORS = 20, 4, 100

Scores = list[list[float]]


def items(contexts: int, queries: int) -> list[MultipleChoiceItem]:
    """Return items of so many contexts, each shared by so many queries."""
    generator = torch.Generator().manual_seed(2)
    made = []
    for context in range(contexts):
        shown = random_tokens(CONTEXT, generator)
        for _ in range(queries):
            query = random_tokens(QUERY, generator)
            options = [random_tokens(OPTION, generator) for _ in range(OPTIONS)]
            made.append(MultipleChoiceItem(context, shown, query, options))
    return made


def embedded_context(llm: FrozenLLM, method: BuiltMethod, item: MultipleChoiceItem) -> Tensor:
    """Return what stands before an item's query, (1, length, width)."""
    context = method.contexts(llm, [item.demonstrations])
    if isinstance(context, TokenContexts):
        return llm.embedding(torch.tensor(context.tokens, device=llm.device))
    return context.vectors


@torch.no_grad()
def authors_way(llm: FrozenLLM, method: BuiltMethod, items: list[MultipleChoiceItem]) -> Scores:
    """Score each option by one forward pass over context, query and option, row by row."""
    method.eval()
    contexts: dict[int, Tensor] = {}
    scores = []
    for item in items:
        if item.context not in contexts:
            contexts[item.context] = embedded_context(llm, method, item)
        row = []
        for option in item.options:
            text = torch.tensor([[*item.query, *option]], device=llm.device)
            embeddings = torch.cat([contexts[item.context], llm.embedding(text)], dim=1)
            logits = llm.model(inputs_embeds=embeddings, use_cache=False).logits
            last = logits[0, -len(option) - 1 : -1].float().log_softmax(-1)
            target = torch.tensor(option, device=llm.device)
            row.append(last.gather(1, target[:, None]).mean().item())
        scores.append(row)
    return scores


@torch.no_grad()
def plain_way(llm: FrozenLLM, method: BuiltMethod, items: list[MultipleChoiceItem]) -> Scores:
    """Score all options after each context in one forward pass, its cache repeated for them."""
    method.eval()
    head = llm.model.get_output_embeddings().weight
    found = []
    for number in dict.fromkeys(item.context for item in items):
        members = [item for item in items if item.context == number]
        embeddings = embedded_context(llm, method, members[0])
        kept = llm.body(inputs_embeds=embeddings, use_cache=True).past_key_values.layers
        # Each option's row has a copy; without a GPU those of one query at a time fit the memory.
        size = len(members) if on_gpu() else 1
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            rows = [[*item.query, *option] for item in batch for option in item.options]
            text = torch.tensor(rows, device=llm.device)
            copies = [
                [part.expand(len(rows), -1, -1, -1) for part in (layer.keys, layer.values)]
                for layer in kept
            ]
            output = llm.body(input_ids=text[:, :-1], past_key_values=DynamicCache(copies))
            states = output.last_hidden_state[:, -OPTION:]
            logs = torch.nn.functional.linear(states, head).float().log_softmax(-1)
            scores = logs.gather(2, text[:, -OPTION:, None]).mean((1, 2))
            found.append(scores.view(len(batch), -1))
    return torch.cat(found).tolist()


def needed_operations(
    llm: FrozenLLM, method: BuiltMethod, items: list[MultipleChoiceItem]
) -> float:
    """Return the operations of reading each context once, and each query and option once."""
    layers, head = layers_of(llm.body), llm.embedding.weight.numel()
    for_pairs = sum(layers.attention.values())
    vectors = method.context_length
    length = CONTEXT if vectors is None else vectors
    contexts = len({item.context for item in items})
    found = contexts * layers.operations(length)
    if vectors is not None:
        backbone = layers_of(method.distiller.backbone)
        found += contexts * backbone.operations(CONTEXT + vectors)
    # A query's last token predicts every option's first; an option's last is only predicted.
    new, predicting = QUERY + OPTIONS * (OPTION - 1), 1 + OPTIONS * (OPTION - 1)
    of_item = 2 * layers.weights * new + for_pairs * new * (length + new) + 2 * head * predicting
    return found + len(items) * of_item


def largest_difference(first: Scores, second: Scores) -> float:
    """Return the largest difference between two lists of scores."""
    return (torch.tensor(first) - torch.tensor(second)).abs().max().item()


@cache
def models() -> tuple[tuple[FrozenLLM, BuiltMethod], tuple[FrozenLLM, BuiltMethod]]:
    """Return our LLM and MEND, and those of the other ways, which have none of our kernels."""
    ours = pair(paper_shape(), VECTORS)
    with without_kernels():
        return ours, pair(paper_shape(), VECTORS)


def scoring_of(
    name: str, batch: list[MultipleChoiceItem], vectors: bool, bars: dict[str, float]
) -> Row:
    """Compare scoring after contexts of tokens or of vectors."""
    (llm, distilling), (plain, plain_distilling) = models()
    method = distilling if vectors else vanilla_icl(llm)
    other = plain_distilling if vectors else vanilla_icl(plain)
    return compare(
        f"scoring, {paper_shape()}, {name}",
        lambda: score_items(llm, method, batch),
        {
            "authors": lambda: authors_way(plain, other, batch),
            "plain": lambda: plain_way(plain, other, batch),
        },
        largest_difference,
        tolerance=0.2 if on_gpu() else 1e-3,
        operations=needed_operations(llm, method, batch),
        bars=bars,
        repeats=5 if on_gpu() else 3,
    )


def parts() -> list[Callable[[], Row | str]]:
    """Return what is to be measured, in order."""
    contexts = 16 if on_gpu() else 1
    shared, drawn = items(contexts, QUERIES), items(4 * contexts, 1)
    of_shared, of_drawn = f"{contexts} x {QUERIES} queries", f"{4 * contexts} queries"
    bars = [{"floor": 3.0}, {}, {}] if on_gpu() else [{"authors": of} for of in (15.0, 5.0, 3.0)]
    return [
        lambda: scoring_of(f"ICL, {of_shared} share {CONTEXT} tokens", shared, False, bars[0]),
        lambda: scoring_of(f"{VECTORS} vectors, {of_shared} share them", shared, True, bars[1]),
        lambda: scoring_of(f"ICL, {of_drawn} with demonstrations each", drawn, False, bars[2]),
    ]


if __name__ == "__main__":
    sys.exit(show(parts()))
