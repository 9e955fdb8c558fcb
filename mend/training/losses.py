"""The three losses and their weighted sum (sections 3.1 and 3.2).

distill: KL divergence from the LLM after the demonstrations (teacher) to the LLM after the
    method's context (student), equation 3.
clm: next-token loss on the query's text, as HyperTuning pretrains.
pred: next-token loss on the answer, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mend.configuration.choices import LOSSES
from mend.configuration.specs.training import Losses, LossSettings
from mend.data.examples import Example
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.padding import pad_right


@dataclass(frozen=True)
class QueryBatch:
    """The collated queries of some examples.

    rows: of each query the example that it belongs to, the tokens that the LLM only reads (none
        where it predicts all), and those that it predicts.
    targets: (queries, longest), these, padded on the right; mask: their 0/1 mask.
    input_length: (queries, 1), how many of the targets are x; the rest is y.
    """

    rows: Rows
    targets: Tensor
    mask: Tensor
    input_length: Tensor


def collate_queries(llm: FrozenLLM, examples: Sequence[Example], stage: str) -> QueryBatch:
    """Collate the queries of examples: what the LLM gets, and what it predicts in a stage."""
    device = llm.device
    queries = [query for example in examples for query in example.queries]
    owner = [index for index, example in enumerate(examples) for _ in example.queries]
    # To an LLM that predicts no queries x is an input, and y alone is predicted.
    whole = llm.predicts_query or stage == "pretrain"
    inputs = [[] if whole else x for x, _ in queries]
    predicted = [[*x, *y] if whole else y for x, y in queries]
    targets, mask = pad_right(predicted, device)
    lengths = torch.tensor([len(x) if whole else 0 for x, _ in queries], device=device)
    return QueryBatch(Rows(owner, inputs, predicted), targets, mask, lengths[:, None])


@torch.no_grad()
def teacher_states(llm: FrozenLLM, examples: Sequence[Example], stage: str) -> list[Tensor]:
    """Return the last hidden states of the LLM that reads the demonstrations themselves.

    For each example (tokens, width): a state for each token of its queries that the LLM predicts.
    """
    batch = collate_queries(llm, examples, stage)
    context = llm.token_context([example.teacher_demonstrations for example in examples])
    states = llm.read(context, batch.rows)[batch.mask.bool()]
    counts = [0] * len(examples)
    for example, _, tokens in batch.rows:
        counts[example] += len(tokens)
    return list(states.split(counts))


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
    method: BuiltMethod,
    examples: Sequence[Example],
    weights: Losses,
    stage: str,
    objective: LossSettings,
) -> dict[str, Tensor]:
    """Return each loss of non-zero weight, averaged over the queries of `examples`.

    Within a query a loss is the mean over its tokens (or their sum for pred, by
    `protocol.prediction_loss`), so a batch's loss does not depend on its micro-batches.
    stage: "pretrain" or "finetune"; with `protocol.distill_in_finetuning` it decides whether
    distill covers y.
    """
    batch = collate_queries(llm, examples, stage)
    queries, targets, mask = len(batch.targets), batch.targets, batch.mask.bool()
    columns = torch.arange(targets.shape[1], device=llm.device)[None]
    is_input = mask & (columns < batch.input_length)
    is_answer = mask & ~is_input

    where = {"clm": is_input, "pred": is_answer, "distill": is_input}
    if stage == "finetune" and objective.distill_in_finetuning == "input-and-output":
        where["distill"] = mask
    if not objective.distill_first_token:
        where["distill"] = where["distill"] & (columns > 0)
    if not (llm.prefix or llm.has_start_token):
        # After no demonstrations nothing predicts the teacher's first token.
        taught = [bool(examples[row].teacher_demonstrations) for row in batch.rows.owner]
        taught = torch.tensor(taught, device=llm.device)[:, None]
        where["distill"] = where["distill"] & (taught | (columns > 0))
    active = [name for name in LOSSES if getattr(weights, name)]
    used = torch.zeros_like(is_input)
    for name in active:
        used |= where[name]

    context = method.contexts(llm, [example.demonstrations for example in examples])
    if not (llm.prefix or llm.has_start_token):
        # After an empty context nothing predicts the first token.
        empty = [context.lengths[example] == 0 for example in batch.rows.owner]
        if any(empty):
            used[torch.tensor(empty, device=llm.device), 0] = False
    states = llm.read(context, batch.rows)
    student_logits = llm.logits(states[used])

    values = {}
    rows = used.nonzero()[:, 0]
    if "clm" in active or "pred" in active:
        nll = negative_log_likelihood(student_logits, targets[used])
        for name in ("clm", "pred"):
            if name in active:
                chosen = where[name][used]
                total = name == "pred" and objective.prediction_loss == "sum"
                values[name] = _mean_by_query(nll[chosen], rows[chosen], queries, total)
    if "distill" in active:
        chosen = where["distill"][used]
        with torch.no_grad():
            if all(example.teacher_states is not None for example in examples):
                states = torch.cat([example.teacher_states for example in examples])
                states = states.to(llm.device, llm.dtype)
            else:
                states = torch.cat(teacher_states(llm, examples, stage))
            teacher_logits = llm.logits(states[(used & where["distill"])[mask]])
        divergence = kl_divergence(teacher_logits, student_logits[chosen])
        values["distill"] = _mean_by_query(divergence, rows[chosen], queries)
    return values


def _mean_by_query(values: Tensor, rows: Tensor, queries: int, total: bool = False) -> Tensor:
    """Average values within each query (or sum them), then over the queries."""
    counts = torch.bincount(rows, minlength=queries).clamp(min=1)
    share = torch.ones_like(values) if total else 1.0 / counts[rows]
    return (values * share).sum() / queries
