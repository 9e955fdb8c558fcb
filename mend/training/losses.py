"""The three losses and their weighted sum (sections 3.1 and 3.2).

distill: KL divergence from the LLM that reads the demonstrations (teacher) to the LLM that reads
    the context (student), equation 3.
clm: next-token loss on the query's text, as HyperTuning pretrains.
pred: next-token loss on the answer, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mend.data.examples import Example
from mend.methods.base import Method
from mend.models.frozen_llm import FrozenLLM, pad_right

LOSSES = ("distill", "clm", "pred")


@dataclass(frozen=True)
class Asked:
    """The queries of some examples, as tensors.

    owner: (queries,), the example that each belongs to; read: their tokens that the LLM only
    reads; tokens: (queries, longest), those that it predicts, padded on the right, and their 0/1
    mask; input_length: (queries, 1), how many of the predicted ones are x, the rest is y.
    """

    owner: Tensor
    read: Sequence[Sequence[int]]
    tokens: Tensor
    mask: Tensor
    input_length: Tensor


def asked_of(llm: FrozenLLM, examples: Sequence[Example], stage: str) -> Asked:
    """Return the queries of examples as the LLM reads and predicts them in a stage."""
    device = llm.device
    queries = [query for example in examples for query in example.queries]
    owner = [index for index, example in enumerate(examples) for _ in example.queries]
    # An LLM that predicts no queries reads x, and y alone is left to predict.
    read = [] if llm.predicts_query or stage == "pretrain" else [x for x, _ in queries]
    tokens, mask = pad_right([y if read else [*x, *y] for x, y in queries], device)
    lengths = torch.tensor([0 if read else len(x) for x, _ in queries], device=device)
    return Asked(torch.tensor(owner, device=device), read, tokens, mask, lengths[:, None])


@torch.no_grad()
def teacher_states(llm: FrozenLLM, examples: Sequence[Example], stage: str) -> list[Tensor]:
    """Return the last hidden states of the LLM that reads the demonstrations themselves.

    For each example (tokens, width): a state for each token of its queries that the LLM predicts.
    """
    asked = asked_of(llm, examples, stage)
    reading = llm.read(llm.token_context([example.teacher_demonstrations for example in examples]))
    states = _states(llm, reading, asked)[asked.mask.bool()]
    of_query = asked.mask.sum(1)
    counts = of_query.new_zeros(len(examples)).index_add(0, asked.owner, of_query)
    return list(states.split(counts.tolist()))


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Return KL(teacher || student) at each position: (n, vocabulary) twice to (n,)."""
    teacher = functional.log_softmax(teacher_logits.float(), dim=-1)
    student = functional.log_softmax(student_logits.float(), dim=-1)
    return (teacher.exp() * (teacher - student)).sum(-1)


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log P(target) at each position: (n, vocabulary) and (n,) to (n,)."""
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def example_losses(
    llm: FrozenLLM,
    method: Method,
    examples: Sequence[Example],
    weights: dict[str, float],
    stage: str,
    protocol: dict,
) -> dict[str, Tensor]:
    """Return each loss of non-zero weight, averaged over the queries of `examples`.

    Within a query a loss is the mean over its tokens (or their sum for pred, faithfulness row 13),
    so a batch's loss does not depend on how the batch is cut into pieces.
    stage: "pretrain" or "finetune"; it decides whether distill covers y (faithfulness row 12).
    """
    asked = asked_of(llm, examples, stage)
    queries, tokens, mask = len(asked.owner), asked.tokens, asked.mask.bool()
    columns = torch.arange(tokens.shape[1], device=llm.device)[None]
    is_input = mask & (columns < asked.input_length)
    is_answer = mask & ~is_input

    where = {"clm": is_input, "pred": is_answer, "distill": is_input}
    if stage == "finetune" and protocol["distill_in_finetuning"] == "input-and-output":
        where["distill"] = mask
    if not protocol["distill_first_token"]:
        where["distill"] = where["distill"] & (columns > 0)
    active = [name for name in LOSSES if weights.get(name)]
    read_at = torch.zeros_like(is_input)
    for name in active:
        read_at |= where[name]

    context = method.contexts(llm, [example.demonstrations for example in examples])
    reading = llm.read(context)
    if not reading.predicts:
        read_at[:, 0] = False  # with an empty context nothing predicts the first token
    student_logits = llm.logits(_states(llm, reading, asked)[read_at])

    values = {}
    rows = read_at.nonzero()[:, 0]
    if "clm" in active or "pred" in active:
        surprise = negative_log_likelihood(student_logits, tokens[read_at])
        for name in ("clm", "pred"):
            if name in active:
                chosen = where[name][read_at]
                total = name == "pred" and protocol["prediction_loss"] == "sum"
                values[name] = _mean_by_query(surprise[chosen], rows[chosen], queries, total)
    if "distill" in active:
        chosen = where["distill"][read_at]
        with torch.no_grad():
            if all(example.teacher_states is not None for example in examples):
                states = torch.cat([example.teacher_states for example in examples])
                states = states.to(llm.device, llm.dtype)
            else:
                states = torch.cat(teacher_states(llm, examples, stage))
            teacher_logits = llm.logits(states[(read_at & where["distill"])[mask]])
        divergence = kl_divergence(teacher_logits, student_logits[chosen])
        values["distill"] = _mean_by_query(divergence, rows[chosen], queries)
    return values


def _states(llm: FrozenLLM, reading: Any, asked: Asked) -> Tensor:
    """Return the states that predict the queries' tokens: (queries, longest, width).

    reading: of the examples' contexts, which is used up.
    """
    # Every example has a query: as many rows as queries are one for each, as they are.
    alone = len(asked.owner) == len(reading.mask)
    after = reading if alone else reading.select(asked.owner)
    if asked.read:
        after = llm.read_tokens(after, asked.read)
    return llm.states_before(after, asked.tokens)


def _mean_by_query(values: Tensor, rows: Tensor, queries: int, total: bool = False) -> Tensor:
    """Average values within each query (or sum them), then over the queries."""
    counts = torch.bincount(rows, minlength=queries).clamp(min=1)
    share = torch.ones_like(values) if total else 1.0 / counts[rows]
    return (values * share).sum() / queries
