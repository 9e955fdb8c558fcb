"""The losses and their weighted sum (sections 3.1 and 3.2).

distill: KL divergence from the LLM after the demonstrations (teacher) to the LLM after the
    method's context (student), equation 3.
clm: next-token loss on the query's text, as HyperTuning pretrains.
pred: next-token loss on the answer, equation 4.
choice: the loss on which of a row's options is right, in finetuning, as rows are scored: the
    cross-entropy of the options' mean log-likelihoods. It is not the paper's.
A method's file may add others, each a function of its contexts and their demonstrations
(`mend.methods.base.Method.own_loss`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mend.configuration.choices import LOSSES
from mend.configuration.specs.training import Losses, LossSettings
from mend.data.examples import Example
from mend.methods.built import BuiltMethod
from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.likelihood import likelihoods
from mend.models.padding import indices, pad_right, to_device


@dataclass(frozen=True)
class QueryBatch:
    """The queries of some examples, on the host.

    rows: of each query the example that it belongs to, the tokens that the LLM only reads (none
        where it predicts all), and those that it predicts.
    targets: (queries, longest), these, padded on the right; mask: which are real.
    is_input: which of the targets are x; the rest is y.
    """

    rows: Rows
    targets: Tensor
    mask: Tensor
    is_input: Tensor


def collate_queries(llm: FrozenLLM, examples: Sequence[Example], stage: str) -> QueryBatch:
    """Collate the queries of examples: what the LLM gets, and what it predicts in a stage."""
    queries = [query for example in examples for query in example.queries]
    owner = [index for index, example in enumerate(examples) for _ in example.queries]
    # To an LLM that predicts no queries x is an input, and y alone is predicted.
    whole = llm.predicts_query or stage == "pretrain"
    inputs = [[] if whole else x for x, _ in queries]
    predicted = [[*x, *y] if whole else y for x, y in queries]
    targets, mask = pad_right(predicted, torch.device("cpu"))
    lengths = [len(x) if whole else 0 for x, _ in queries]
    is_input = torch.arange(targets.shape[1]) < torch.tensor(lengths)[:, None]
    return QueryBatch(Rows(owner, inputs, predicted, lengths), targets, mask.bool(), is_input)


@torch.no_grad()
def teacher_states(llm: FrozenLLM, examples: Sequence[Example], stage: str) -> list[Tensor]:
    """Return the last hidden states of the LLM that reads the demonstrations themselves.

    For each example (tokens, width): a state for each token of its queries that the LLM predicts.
    """
    batch = collate_queries(llm, examples, stage)
    states = _read_by_teacher(llm, examples, batch.rows)
    states = states[indices(_places(batch.mask), llm.device)]
    counts = [0] * len(examples)
    for example, _, tokens in batch.rows:
        counts[example] += len(tokens)
    return list(states.split(counts))


def _read_by_teacher(llm: FrozenLLM, examples: Sequence[Example], rows: Rows) -> Tensor:
    """Return the states after the demonstrations themselves, (queries x longest, width)."""
    context = llm.token_context([example.teacher_demonstrations for example in examples])
    return llm.states(context, rows).flatten(0, 1)


def _places(mask: Tensor) -> list[int]:
    """Return where a mask of the host's holds, as numbers of its flattened entries."""
    return mask.flatten().nonzero()[:, 0].tolist()


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) at each position.

    teacher, student: log-probabilities, (n, vocabulary); the result is (n,).
    """
    return (teacher.exp() * (teacher - student)).sum(-1)


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
    One plain pass of teacher, of distiller and of student; nothing waits for a GPU.
    """
    batch = collate_queries(llm, examples, stage)
    context = method.contexts(llm, [example.demonstrations for example in examples])
    own = _own_losses(method, context, examples, weights)
    covered = _covered(batch, stage, objective)
    active = [name for name in LOSSES if getattr(weights, name) and name != "choice"]
    asked = _options(examples) if weights.choice and stage == "finetune" else None
    if not active and asked is None:
        return own
    if not (llm.prefix or llm.has_start_token):
        # After nothing at all nothing predicts the first token.
        first = torch.arange(batch.mask.shape[1]) == 0
        owners = batch.rows.owner
        untaught = torch.tensor([not examples[of].teacher_demonstrations for of in owners])
        covered["distill"] = covered["distill"] & ~(untaught[:, None] & first)
        empty = torch.tensor([context.lengths[of] == 0 for of in owners])
        covered = {name: where & ~(empty[:, None] & first) for name, where in covered.items()}
    used = torch.zeros_like(batch.mask)
    for name in active:
        used = used | covered[name]
    places = indices(_places(used), llm.device)
    targets = to_device(batch.targets[used], llm.device)
    shares = {}
    for name in active:
        chosen = covered[name]
        total = name == "pred" and objective.prediction_loss == "sum"
        count = 1 if total else chosen.sum(1, keepdim=True).clamp(min=1)
        share = chosen / (count * len(used))
        shares[name] = to_device(share[used].float(), llm.device)

    rows = batch.rows if asked is None else _joined(batch.rows, asked)
    states = llm.states(context, rows)
    student = states[: len(batch.mask)].flatten(0, 1)[places]
    teacher = None
    if "distill" in active:
        with torch.no_grad():
            if all(example.teacher_states is not None for example in examples):
                kept = torch.cat([example.teacher_states for example in examples])
                kept = kept[used[batch.mask]].to(llm.dtype)
                teacher = to_device(kept, llm.device)
            else:
                teacher = _read_by_teacher(llm, examples, batch.rows)[places]
    losses = _summed(llm, student, teacher, targets, shares) if active else {}
    if asked is not None:
        losses["choice"] = _choice(llm, states[len(batch.mask) :], asked, examples)
    return losses | own


def _own_losses(
    method: BuiltMethod, contexts: Contexts, examples: Sequence[Example], weights: Losses
) -> dict[str, Tensor]:
    """Return the method's own losses, each example with the weight of its queries."""
    counts = [len(example.queries) for example in examples]
    found = {}
    for name in weights.own:
        each = method.own_loss(name, contexts, [example.demonstrations for example in examples])
        shares = to_device(torch.tensor(counts) / sum(counts), each.device)
        found[name] = (each * shares).sum()
    return found


def _options(examples: Sequence[Example]) -> Rows:
    """Return rows of each query with each of its options, of which the first is right."""
    owner, inputs, targets = [], [], []
    for index, example in enumerate(examples):
        for (x, y), others in zip(example.queries, example.others, strict=True):
            for option in (y, *others):
                owner.append(index)
                inputs.append(x)
                targets.append(option)
    return Rows(owner, inputs, targets)


def _joined(rows: Rows, more: Rows) -> Rows:
    return Rows(
        [*rows.owner, *more.owner],
        [*rows.inputs, *more.inputs],
        [*rows.targets, *more.targets],
        [*rows.queries, *[0] * len(more.owner)],
    )


def _choice(llm: FrozenLLM, states: Tensor, rows: Rows, examples: Sequence[Example]) -> Tensor:
    """Return the cross-entropy of the right options, averaged over the queries.

    states: (rows, longest, width), of `_options`. A query without other options adds nothing.
    """
    targets, mask = pad_right(rows.targets, torch.device("cpu"), states.shape[1])
    mask = mask.bool()
    places = indices(_places(mask), llm.device)
    words = to_device(targets[mask], llm.device)
    logs = []
    for start in range(0, len(words), llm.logits_batch_size):
        chunk = slice(start, start + llm.logits_batch_size)
        given = (llm, states.flatten(0, 1)[places[chunk]], words[chunk])
        options = {"use_reentrant": False, "preserve_rng_state": False}
        logs.append(checkpoint(likelihoods, *given, **options))
    of_row = indices([row for row, each in enumerate(rows.targets) for _ in each], llm.device)
    share = indices([len(each) for each in rows.targets for _ in each], llm.device)
    scores = torch.zeros(len(rows.targets), device=llm.device)
    scores = scores.index_add(0, of_row, torch.cat(logs) / share)

    counts = [1 + len(others) for example in examples for others in example.others]
    table = torch.full((len(counts), max(counts)), -1, dtype=torch.long)
    first = 0
    for query, count in enumerate(counts):
        table[query, :count] = torch.arange(first, first + count)
        first += count
    table = to_device(table, llm.device)
    options = scores[table.clamp(min=0)].masked_fill(table < 0, -math.inf)
    return -options.log_softmax(-1)[:, 0].mean()


def _covered(batch: QueryBatch, stage: str, objective: LossSettings) -> dict[str, Tensor]:
    """Return which targets each loss is the mean of, (queries, longest) each."""
    distilled = batch.is_input
    if stage == "finetune" and objective.distill_in_finetuning == "input-and-output":
        distilled = batch.mask
    if not objective.distill_first_token:
        distilled = distilled & (torch.arange(distilled.shape[1]) > 0)
    answers = batch.mask & ~batch.is_input
    return {"clm": batch.is_input, "pred": answers, "distill": distilled}


def _summed(
    llm: FrozenLLM,
    student: Tensor,
    teacher: Tensor | None,
    targets: Tensor,
    shares: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return each loss: the sum over positions, each with its share.

    student, teacher: states, (positions, width); targets, shares: (positions,). The logits of many
    positions are made in chunks, and again for the gradient, so that those of all never exist.
    """
    size = llm.logits_batch_size
    chunks = range(0, max(1, len(targets)), size)
    sums: dict[str, Tensor] = {}
    for start in chunks:
        part = slice(start, start + size)
        of_part = {name: share[part] for name, share in shares.items()}
        taught = None if teacher is None else teacher[part]
        arguments = (llm, student[part], taught, targets[part], of_part)
        if len(chunks) == 1:
            found = _sum_of_chunk(*arguments)
        else:
            options = {"use_reentrant": False, "preserve_rng_state": False}  # no dropout here
            found = checkpoint(_sum_of_chunk, *arguments, **options)
        for name, value in found.items():
            sums[name] = sums[name] + value if name in sums else value
    return sums


def _sum_of_chunk(
    llm: FrozenLLM,
    student: Tensor,
    teacher: Tensor | None,
    targets: Tensor,
    shares: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    logs = llm.logits(student).log_softmax(-1)
    likelihood = -logs.gather(1, targets[:, None])[:, 0]
    values = {"clm": likelihood, "pred": likelihood}
    if "distill" in shares:
        with torch.no_grad():
            taught = llm.logits(teacher).log_softmax(-1)
        values["distill"] = kl_divergence(taught, logs)
    return {name: (values[name] * share).sum() for name, share in shares.items()}
