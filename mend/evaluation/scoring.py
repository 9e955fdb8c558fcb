"""Scoring every option of every query: a context is prefilled once for all its queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.grouping import GroupedMethod
from mend.methods.built import BuiltMethod
from mend.models.contexts import Contexts, TokenContexts
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.kernels.tree_attention import (
    can_take_trees,
    collate_trees,
    pack_trees,
    tree_states,
)
from mend.models.padding import indices
from mend.progress import Progress, logger

#: Contexts and items that are read at once, which memory may lower.
AT_ONCE = (64, 128)
#: A GPU computes more of them no longer than Python takes to start it. (Not of an encoder-decoder:
#: each of its items is a copy of a context's keys and values.)
AT_ONCE_ON_GPU = (128, 512)

#: Is told the number of each of some contexts (`item.context`), and the contexts themselves.
WhenMade = Callable[[Sequence[int], Contexts], None]


@torch.no_grad()
def score_items(
    llm: FrozenLLM,
    method: BuiltMethod | GroupedMethod,
    items: Sequence[MultipleChoiceItem],
    option_score: str = "mean",
    context_batch_size: int | None = None,
    item_batch_size: int | None = None,
    progress: Progress | None = None,
    when_made: WhenMade | None = None,
) -> list[list[float]]:
    """Return each item's option scores, log P(option | context, query), higher is better.

    option_score: "mean" or "sum" over the option's tokens (`protocol.option_score`).
    context_batch_size, item_batch_size: how many are read at once, by default as many as the device
    gains by.
    when_made: is told of contexts as they are made; of some twice, where memory ran out.
    Items may come in any order, and equal ones are scored once: a method that reads no
    demonstrations asks the same of every seed. Contexts of similar length are prefilled together,
    smaller batches where memory runs out. Raises UserError if there is not enough for one item.
    """
    numbers: dict[tuple, int] = {}
    where = [numbers.setdefault(_identity(item), len(numbers)) for item in items]
    items = list(dict(zip(where, items, strict=True)).values())
    training = method.training
    method.eval()
    scores: list[list[float]] = [[] for _ in items]
    done = 0
    on_gpu = llm.device.type == "cuda" and not llm.model.config.is_encoder_decoder
    at_once = AT_ONCE_ON_GPU if on_gpu else AT_ONCE
    context_batch_size = context_batch_size or at_once[0]
    item_batch_size = item_batch_size or at_once[1]
    groups = list(_groups_by_context(items, context_batch_size))
    while groups:
        group = groups.pop(0)
        # The shortest contexts come first, the longest last.
        check = done == 0 or not groups
        try:
            for i, values in _score_group(
                llm, method, items, group, option_score, item_batch_size, when_made, check
            ):
                scores[i] = values
        except _UnlikePlainRowsError as error:
            logger.warning(
                "%s: contexts read once give other scores than plain rows (%s); what is not alike "
                "is left out, which takes longer",
                llm.model.config.model_type,
                error,
            )
            groups.insert(0, group)
            continue
        except torch.OutOfMemoryError:
            if len(group) == item_batch_size == 1:
                raise UserError(
                    "memory ran out while one multiple-choice item was scored; choose a smaller "
                    "dtype for the LLM or a shorter protocol.longest_context"
                ) from None
            context_batch_size = max(1, min(context_batch_size, len(group)) // 2)
            item_batch_size = max(1, item_batch_size // 2)
            logger.info(
                "memory ran out: from here on %d contexts and %d items at once",
                context_batch_size,
                item_batch_size,
            )
            again = [members for later in (group, *groups) for members in later]
            groups = _batches(again, context_batch_size)
            continue
        done += sum(map(len, group))
        if progress:
            progress.update(done)
    method.train(training)
    return [scores[number] for number in where]


def _identity(item: MultipleChoiceItem) -> tuple:
    return item.context, tuple(item.query), tuple(map(tuple, item.options))


def _score_group(
    llm: FrozenLLM,
    method: BuiltMethod | GroupedMethod,
    items: Sequence[MultipleChoiceItem],
    group: list[list[int]],
    option_score: str,
    item_batch_size: int,
    when_made: WhenMade | None,
    check: bool,
) -> list[tuple[int, list[float]]]:
    """Return (index, scores) of the items of some contexts, each prefilled once where it can be.

    A GPU is waited for once, when all of its work is given to it.
    check: compare some with plain rows; raises _UnlikePlainRowsError, after which the LLM does
    without what was not like them.
    """
    firsts = [members[0] for members in group]
    context = method.contexts(llm, [items[i].demonstrations for i in firsts])
    if when_made:
        when_made([items[i].context for i in firsts], context)
    owned = [(row, i) for row, members in enumerate(group) for i in members]
    rows = [context.spans[row] + _longest_text(items[i]) for row, i in owned]
    _check_room(llm, items, owned, rows, context)
    # What is cut has another context for each option.
    cut = [_is_cut(items[i], size) for (_, i), size in zip(owned, rows, strict=True)]
    together = [pair for pair, is_cut in zip(owned, cut, strict=True) if not is_cut]
    sizes = [size for size, is_cut in zip(rows, cut, strict=True) if not is_cut]
    prefilled = llm.prefill(context) if together and llm.can_share(context, sizes) else None
    # Rows that hold their contexts take more memory.
    size_of_rows = max(1, item_batch_size // 16)
    order: list[int] = []
    found: list[Tensor] = []
    for part in _batches(together, item_batch_size if prefilled is not None else size_of_rows):
        owners = [row for row, _ in part]
        batch = [items[i] for _, i in part]
        trees = llm.takes_trees and can_take_trees(llm) and all(len(item.query) for item in batch)
        order += [i for _, i in part]
        if prefilled is None:
            found.append(_score_rows(llm, context, owners, batch, option_score, llm.states))
            continue
        try:
            if trees:
                width = (max(context.lengths) + len(llm.prefix)) // 2
                scores = _score_trees(llm, prefilled, owners, batch, option_score, width)
            else:
                scores = _score_rows(llm, prefilled, owners, batch, option_score, llm.states_after)
            if check:
                _compare_with_plain_rows(llm, context, owners, batch, option_score, scores)
            check = False  # once is enough: plain rows take longer
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever an architecture raises at what it does not know
            if not check:
                raise
            setattr(llm, "takes_trees" if trees else "shares_contexts", False)
            raise _UnlikePlainRowsError(f"{type(error).__name__}: {error}") from error
        found.append(scores)
    alone = [pair for pair, is_cut in zip(owned, cut, strict=True) if is_cut]
    for part in _batches(alone, size_of_rows):
        batch = [items[i] for _, i in part]
        contexts = [context.tokens[row] for row, _ in part]
        order += [i for _, i in part]
        found.append(_score_cut(llm, contexts, batch, option_score))
    values = _by_item(torch.cat(found), [items[i] for i in order])
    return list(zip(order, values, strict=True))


def _by_item(scores: Tensor, batch: Sequence[MultipleChoiceItem]) -> list[list[float]]:
    """Fetch the scores of all options, (options,), from the device."""
    values = iter(scores.tolist())
    return [[next(values) for _ in item.options] for item in batch]


class _UnlikePlainRowsError(Exception):
    """Contexts that were read once, or options as trees, gave other scores than plain rows."""


def _compare_with_plain_rows(
    llm: FrozenLLM,
    context: Contexts,
    owners: list[int],
    batch: Sequence[MultipleChoiceItem],
    option_score: str,
    found: Tensor,
) -> None:
    """Raise _UnlikePlainRowsError if scores differ from those of plain rows.

    Compared are the item after the shortest context, which has the most padding, and the longest.
    """
    lengths = [context.spans[row] for row in owners]
    sizes = [length + _longest_text(item) for length, item in zip(lengths, batch, strict=True)]
    chosen = sorted({lengths.index(min(lengths)), sizes.index(max(sizes))})
    compared = [batch[place] for place in chosen]
    rows = [owners[place] for place in chosen]
    plain = _by_item(_score_rows(llm, context, rows, compared, option_score, llm.states), compared)
    scores = _by_item(found, batch)
    # In bfloat16 a SmolLM2's single tokens differ by up to 0.15 nats between kernels.
    tolerance = 1e-3 if llm.dtype == torch.float32 else 0.5
    for place, expected in zip(chosen, plain, strict=True):
        differences = [abs(a - b) for a, b in zip(expected, scores[place], strict=True)]
        scale = max(1.0, *map(abs, expected))
        if not max(differences) <= tolerance * scale:
            raise _UnlikePlainRowsError(
                f"{max(differences):.2g} nats in an item of {sizes[place]} tokens"
            )


def _longest_text(item: MultipleChoiceItem) -> int:
    return len(item.query) + max(map(len, item.options))


def _is_cut(item: MultipleChoiceItem, size: int) -> bool:
    return item.longest is not None and size > item.longest


def _check_room(
    llm: FrozenLLM,
    items: Sequence[MultipleChoiceItem],
    owned: Sequence[tuple[int, int]],
    rows: Sequence[int],
    context: Contexts,
) -> None:
    """Raise UserError for an item that the LLM cannot read, or in which nothing comes first."""
    for (row, i), size in zip(owned, rows, strict=True):
        item = items[i]
        if size > llm.max_positions and not _is_cut(item, size):
            raise UserError(
                f"an item of {size} tokens (context {context.spans[row]}, query "
                f"{len(item.query)}, longest option {max(map(len, item.options))}) is longer than "
                f"the {llm.max_positions} that the LLM reads; choose a shorter "
                "protocol.longest_context or leave the row out"
            )
        starts = context.lengths[row] or item.query or llm.prefix or llm.has_start_token
        if not starts:
            raise UserError(
                "an item has an empty query and no context, so nothing predicts its options' first "
                "token; leave the row out, or set llms.NAME.prefix: bos"
            )


def _score_cut(
    llm: FrozenLLM,
    contexts: Sequence[Sequence[int]],
    batch: Sequence[MultipleChoiceItem],
    option_score: str,
) -> Tensor:
    """Score items whose contexts' oldest tokens fall off, as many as each option needs."""
    kept, options = [], []
    for context, item in zip(contexts, batch, strict=True):
        text = [*context, *item.query]
        options += item.options
        kept += [text[max(0, len(text) + len(o) - item.longest) :] for o in item.options]
    rows = Rows(range(len(kept)), [[] for _ in kept], options)
    return _scores_of_rows(llm, llm.states(TokenContexts(kept), rows), options, option_score)


def _batches(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _groups_by_context(
    items: Sequence[MultipleChoiceItem], context_batch_size: int
) -> Iterator[list[list[int]]]:
    """Yield groups of contexts of similar length, each a list of the indices that share it."""
    members: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        members.setdefault(item.context, []).append(index)
    contexts = sorted(
        members.values(), key=lambda indices: _tokens(items[indices[0]].demonstrations)
    )
    yield from _batches(contexts, context_batch_size)


def _tokens(demonstrations: Sequence[int] | Sequence[Sequence[int]]) -> int:
    """How many tokens they are, in groups or not."""
    return sum(1 if isinstance(part, int) else len(part) for part in demonstrations)


def _score_trees(
    llm: FrozenLLM,
    prefilled: Any,
    owners: list[int],
    batch: Sequence[MultipleChoiceItem],
    option_score: str,
    width: int,
) -> Tensor:
    """Score items whose contexts are rows `owners` of `prefilled`, options as trees.

    width: the tokens of a row. Each row costs a copy of its context's keys and values; the longer
    it is, the more of its own tokens each token attends to in vain. At half the context's length,
    neither costs much.
    """
    trees = [(item.query, item.options) for item in batch]
    rows = pack_trees(trees, owners, width)
    packed = collate_trees([[trees[i] for i in row] for row in rows], llm.device)
    states = tree_states(llm, prefilled.select([owners[row[0]] for row in rows]), packed)
    found = _log_probabilities(llm, states, packed.state, packed.target)
    options = [option for item in batch for option in item.options]
    return _option_scores(found, packed.option, options, option_score)


def _score_rows(
    llm: FrozenLLM,
    context: Any,
    owners: list[int],
    batch: Sequence[MultipleChoiceItem],
    option_score: str,
    states_of: Callable[..., Tensor],
) -> Tensor:
    """Score items with a row for each option; `states_of` reads them after their contexts."""
    of_options = [
        (row, item.query, option)
        for row, item in zip(owners, batch, strict=True)
        for option in item.options
    ]
    rows = Rows(*zip(*of_options, strict=True))
    return _scores_of_rows(llm, states_of(context, rows), rows.targets, option_score)


def _scores_of_rows(
    llm: FrozenLLM, states: Tensor, options: Sequence[Sequence[int]], option_score: str
) -> Tensor:
    """Return the scores of options, (options,), from their states, (options, longest, width)."""
    longest = states.shape[1]
    table = [
        (number * longest + place, token, number)
        for number, option in enumerate(options)
        for place, token in enumerate(option)
    ]
    where, target, of_option = indices(table, llm.device).T
    each = torch.arange(len(table), device=llm.device)
    found = _log_probabilities(llm, states.flatten(0, 1)[where], each, target)
    return _option_scores(found, of_option, options, option_score)


def _log_probabilities(llm: FrozenLLM, states: Tensor, state: Tensor, target: Tensor) -> Tensor:
    """Return log P(target[i]) after states[state[i]], logits a batch at a time."""
    found = torch.zeros(len(target), device=states.device)
    size = llm.logits_batch_size
    for start in range(0, len(states), size):
        logs = llm.logits(states[start : start + size]).log_softmax(-1)
        place = state - start
        here = (place >= 0) & (place < len(logs))
        found = torch.where(here, logs[place.clamp(0, len(logs) - 1), target], found)
    return found


def _option_scores(
    found: Tensor, option: Tensor, options: Sequence[Sequence[int]], option_score: str
) -> Tensor:
    """Add up the log-probabilities of each option's tokens; `option` says whose each is."""
    total = found.new_zeros(len(options)).index_add(0, option, found)
    if option_score == "mean":
        total = total / indices([len(tokens) for tokens in options], total.device)
    return total
