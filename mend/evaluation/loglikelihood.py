"""Log-likelihoods of continuations after contexts, and whether each is what greedy decoding writes.

`mend.evaluation.scoring` scores the options of a protocol's items; here a caller has tokens of its
own, as lm-evaluation-harness has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mend.errors import UserError
from mend.models.architecture import rope_switch
from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.padding import indices

#: Contexts and continuations that are read at once, which memory may lower.
AT_ONCE = (64, 128)


class Continuation(NamedTuple):
    """Tokens after a context and a query.

    context: which of the contexts; query: the tokens after it that are read alone; tokens: those
    after them whose probability is asked for, at least one.
    """

    context: int
    query: Sequence[int]
    tokens: Sequence[int]


class LogLikelihood(NamedTuple):
    """log P(continuation | context, query), in nats, summed over its tokens.

    is_greedy: whether each token is the most likely one after those before it.
    """

    total: float
    is_greedy: bool


def most_positions(llm: FrozenLLM) -> int:
    """Return how many positions context, query and continuation have together at most.

    The last token is predicted and never read, but where it may decide how a row rotates.
    """
    return llm.max_positions + (0 if rope_switch(llm.model.config) else 1)


@torch.no_grad()
def log_likelihoods(
    llm: FrozenLLM,
    contexts: Contexts,
    continuations: Sequence[Continuation],
    context_batch_size: int = AT_ONCE[0],
    batch_size: int = AT_ONCE[1],
) -> list[LogLikelihood]:
    """Return the log-likelihood of each continuation, in their order.

    A context is read once for all its continuations, and what differs in its last token alone is
    read once too. Batches are halved where memory runs out.
    Raises UserError for a continuation that has no tokens, that nothing comes before, or that does
    not fit the LLM's positions.
    """
    lengths = contexts.spans
    for number, one in enumerate(continuations):
        _check(llm, lengths[one.context], one, number)
    owned: dict[int, list[int]] = {}
    for number, one in enumerate(continuations):
        owned.setdefault(one.context, []).append(number)
    waiting = sorted(owned, key=lambda context: lengths[context])
    found: dict[int, LogLikelihood] = {}
    training = llm.model.training
    llm.model.eval()
    try:
        while waiting:
            group = waiting[:context_batch_size]
            numbers = [number for context in group for number in owned[context]]
            try:
                found |= _of_group(llm, contexts, group, continuations, numbers, batch_size)
            except torch.OutOfMemoryError:
                if len(group) == batch_size == 1:
                    raise UserError(
                        "memory ran out while one continuation was read; choose a smaller dtype "
                        "for the LLM or a shorter context"
                    ) from None
                context_batch_size = max(1, len(group) // 2)
                batch_size = max(1, batch_size // 2)
                continue
            waiting = waiting[len(group) :]
    finally:
        llm.model.train(training)
    return [found[number] for number in range(len(continuations))]


def _check(llm: FrozenLLM, context: int, one: Continuation, number: int) -> None:
    if not len(one.tokens):
        raise UserError(f"continuation {number + 1} has no tokens, so it has no probability")
    if not (context or len(one.query) or llm.prefix or llm.has_start_token):
        raise UserError(
            f"nothing comes before continuation {number + 1}: an empty query after an empty "
            "context; give a query, or load the LLM with prefix='bos'"
        )
    if context + len(one.query) + len(one.tokens) > most_positions(llm):
        raise UserError(
            f"continuation {number + 1}: a context of {context} positions, a query of "
            f"{len(one.query)} tokens and a continuation of {len(one.tokens)} do not fit the "
            f"{most_positions(llm)} that the LLM has; shorten the context or the query"
        )


def _of_group(
    llm: FrozenLLM,
    contexts: Contexts,
    group: Sequence[int],
    continuations: Sequence[Continuation],
    numbers: Sequence[int],
    batch_size: int,
) -> dict[int, LogLikelihood]:
    """Return the log-likelihoods of the continuations `numbers`, which a group of contexts has."""
    chosen = contexts.select(group)
    place = {context: row for row, context in enumerate(group)}
    # What is read for a continuation is also read for another that differs in its last token.
    reading: dict[tuple, list[int]] = {}
    for number in numbers:
        one = continuations[number]
        key = place[one.context], tuple(one.query), tuple(one.tokens[:-1])
        reading.setdefault(key, []).append(number)
    sizes = [chosen.spans[row] + len(query) + len(tokens) + 1 for row, query, tokens in reading]
    context, states_of = chosen, llm.states
    if llm.can_share(chosen, sizes):
        context, states_of = llm.prefill(chosen), llm.states_after
    else:
        batch_size = max(1, batch_size // 16)  # each row holds its context
    found: dict[int, LogLikelihood] = {}
    # Rows of about the same length, so that little of a batch is padding.
    keys = sorted(reading, key=lambda key: len(key[1]) + len(key[2]))
    for start in range(0, len(keys), batch_size):
        batch = keys[start : start + batch_size]
        members = [reading[key] for key in batch]
        targets = [list(continuations[same[0]].tokens) for same in members]
        states = states_of(context, Rows([key[0] for key in batch], [k[1] for k in batch], targets))
        asked = [(row, number) for row, same in enumerate(members) for number in same]
        tokens = [continuations[number].tokens for _, number in asked]
        values = _read_off(llm, states, targets, [row for row, _ in asked], tokens)
        found |= dict(zip([number for _, number in asked], values, strict=True))
    return found


def _read_off(
    llm: FrozenLLM,
    states: Tensor,
    read: Sequence[Sequence[int]],
    row_of: Sequence[int],
    tokens: Sequence[Sequence[int]],
) -> list[LogLikelihood]:
    """Return the log-likelihoods of token sequences, each after the states of its row.

    states: (rows, longest, width), of which each row has as many as `read` has tokens there.
    """
    starts, places = [], []
    for row, row_tokens in enumerate(read):
        starts.append(len(places))
        places += [row * states.shape[1] + step for step in range(len(row_tokens))]
    real = states.flatten(0, 1)[indices(places, states.device)]
    steps = [(starts[row], one) for row, one in zip(row_of, tokens, strict=True)]
    state = indices([start + step for start, one in steps for step in range(len(one))], real.device)
    target = indices([token for one in tokens for token in one], real.device)
    value = torch.zeros(len(target), device=real.device)
    greedy = torch.zeros(len(target), dtype=torch.bool, device=real.device)
    for start in range(0, len(real), llm.logits_batch_size):
        logs = llm.logits(real[start : start + llm.logits_batch_size]).log_softmax(-1)
        here = ((state >= start) & (state < start + len(logs))).nonzero()[:, 0]
        row, token = state[here] - start, target[here]
        value[here] = logs[row, token]
        greedy[here] = logs.argmax(-1)[row] == token
    counts = [len(one) for one in tokens]
    return [
        LogLikelihood(float(values.sum()), bool(best.all()))
        for values, best in zip(value.cpu().split(counts), greedy.cpu().split(counts), strict=True)
    ]
