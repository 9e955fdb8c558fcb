"""Scoring options: a context read once for all that follows it, beside reading it for each option.

The obvious way is what MetaICL's code does: every option is a row of its own, context and all.
"""

from __future__ import annotations

import sys

import torch
from floors import floor_seconds
from models import device, distiller, llm, mend, random_tokens, vanilla_icl, without_kernels
from side_by_side import compare, exit_status

from mend.data.items import MultipleChoiceItem
from mend.evaluation.scoring import score_items
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM, TokenContext

CONTEXT, QUERY, OPTION = 900, 56, 3
QUERIES, OPTIONS, VECTORS = 20, 4, 100


@torch.no_grad()
def score_each_option(
    llm: FrozenLLM, method: BuiltMethod, items: list[MultipleChoiceItem]
) -> list[list[float]]:
    """Score each option by one forward pass over context, query and option, row by row."""
    method.eval()
    contexts = {}
    scores = []
    for item in items:
        if item.context not in contexts:
            context = method.contexts(llm, [item.demonstrations])
            if isinstance(context, TokenContext):
                words = torch.tensor(context.tokens, device=llm.device)
                contexts[item.context] = llm.embedding(words)
            else:
                contexts[item.context] = context.vectors
        before = contexts[item.context]
        row = []
        for option in item.options:
            text = torch.tensor([[*item.query, *option]], device=llm.device)
            embeddings = torch.cat([before, llm.embedding(text)], dim=1)
            logits = llm.model(inputs_embeds=embeddings, use_cache=False).logits
            last = logits[0, -len(option) - 1 : -1].float().log_softmax(-1)
            target = torch.tensor(option, device=llm.device)
            row.append(last.gather(1, target[:, None]).mean().item())
        scores.append(row)
    return scores


def items(shared: bool, number: int) -> list[MultipleChoiceItem]:
    """Return items that share their demonstrations, or have each its own."""
    generator = torch.Generator().manual_seed(2)
    contexts = [random_tokens(CONTEXT, generator) for _ in range(1 if shared else number)]
    return [
        MultipleChoiceItem(
            context=0 if shared else index,
            demonstrations=contexts[0 if shared else index],
            query=random_tokens(QUERY, generator),
            options=[random_tokens(OPTION, generator) for _ in range(OPTIONS)],
        )
        for index in range(number)
    ]


def largest_difference(first: list[list[float]], second: list[list[float]]) -> float:
    """Return the largest difference between two lists of scores."""
    return (torch.tensor(first) - torch.tensor(second)).abs().max().item()


def run() -> tuple[list[dict], list[str]]:
    """Compare all parts; return the table's rows, and no sentences."""
    model = llm()
    distilling = mend(model, distiller(model, VECTORS))
    with without_kernels():
        plain = llm()
        plain_distilling = mend(plain, distiller(plain, VECTORS))
    on_gpu = device().type == "cuda"
    shared, drawn = items(True, QUERIES), items(False, 4)
    rows = []
    tokens = vanilla_icl(model)
    for name, method, plain_method, batch, goal in (
        ("scoring, ICL, 20 queries share 900 tokens", tokens, tokens, shared, 15),
        ("scoring, 100 vectors, 20 queries share them", distilling, plain_distilling, shared, 5),
        ("scoring, ICL, demonstrations for each row", tokens, tokens, drawn, 3),
    ):

        def ours(method=method, batch=batch) -> list[list[float]]:
            return score_items(model, method, batch, context_batch_size=4)

        def obvious(method=plain_method, batch=batch) -> list[list[float]]:
            return score_each_option(plain, method, batch)

        # On a CPU the obvious way takes minutes where 20 queries have 4 options each.
        repeats = 3 if on_gpu or batch is drawn else 1
        tolerance = 0.2 if on_gpu else 1e-3
        floor = floor_seconds(ours, model)
        row = compare(name, ours, obvious, largest_difference, tolerance, goal, repeats, floor)
        rows.append(row)
    return rows, []


if __name__ == "__main__":
    sys.exit(exit_status(run()[0]))
