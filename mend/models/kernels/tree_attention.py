"""Queries and their options as trees: what they share is computed once, and kept once.

A row of an LLM's batch holds several queries, one after the other, each followed by all of its
options. A mask lets each token see the context, its own query and, in an option, that option
alone; its position is the one that it would have right after the context. So nothing of the context
is copied for each option, and little for each query: copying a long context's keys and values
takes longer than a forward pass over a short query.

Processor time without it over that with it (benchmarks/kernel_gains.py, 2 busy processors,
float32): scoring 64 pocket items after one context 1.7 (vectors) and 5.5 (tokens), after a context
each 1.2 and 1.7; at GPT-2's shape, 4 items after one context 2.0 (tokens), after a context each 1.1
and 1.3. Encoder-decoders do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mend.models.architecture import takes
from mend.models.kernels import enabled
from mend.models.padding import to_device

if TYPE_CHECKING:
    from mend.models.decoder_only import DecoderOnlyLLM, PrefilledContext
    from mend.models.frozen_llm import FrozenLLM

#: A query and its options, as token ids.
Tree = tuple[Sequence[int], Sequence[Sequence[int]]]


def can_take_trees(llm: FrozenLLM) -> bool:
    """Return whether an LLM may take packed trees; scoring compares its first with plain rows."""
    config = llm.model.config
    return (
        enabled("tree_attention")
        and not config.is_encoder_decoder
        # A window of attention is part of a mask, and here the mask is ours.
        and set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
        and "local" not in getattr(config, "attention_layers", ())
        and not getattr(config, "sliding_window", None)
        and config._attn_implementation in ("eager", "sdpa")
        and takes(llm.body, "position_ids")
    )


def pack_trees(trees: Sequence[Tree], owners: Sequence[int], width: int) -> list[list[int]]:
    """Return rows of the trees' indices: neighbours of one owner, at most `width` tokens together.

    owners: whose context each tree comes after. A tree of more tokens has a row of its own.
    """
    rows: list[list[int]] = []
    left = 0
    for index, tree in enumerate(trees):
        size = _size(tree)
        if not rows or owners[rows[-1][-1]] != owners[index] or size > left:
            rows.append([])
            left = width
        rows[-1].append(index)
        left -= size
    return rows


def _size(tree: Tree) -> int:
    """How many tokens of a tree are inputs: the last of each option is only predicted."""
    query, options = tree
    return len(query) + sum(len(option) - 1 for option in options)


@dataclass
class PackedTrees:
    """Trees in rows, as tensors.

    tokens: (rows, n), padded on the right. position_ids: (rows, n), counted after the context.
    visible: (rows, n, n), whether a row's token may attend to another.
    row, place: (states,), where the states are that predict something.
    state, target: (tokens of options,), which of them predicts each token of an option, and it.
    option: (tokens of options,), the option that each belongs to, counted over all trees.
    """

    tokens: Tensor
    position_ids: Tensor
    visible: Tensor
    row: Tensor
    place: Tensor
    state: Tensor
    target: Tensor
    option: Tensor


def collate_trees(rows: Sequence[Sequence[Tree]], device: torch.device) -> PackedTrees:
    """Collate packed trees; every query and option has at least one token."""
    laid = [_Row() for _ in rows]
    states: list[tuple[int, int]] = []
    answers: list[tuple[int, int, int]] = []
    options_before = 0
    for number, (row, trees) in enumerate(zip(laid, rows, strict=True)):
        for tree, (query, options) in enumerate(trees):
            row.append(query, 0, tree, 0)
            after_query = len(states)
            states.append((number, len(row.tokens) - 1))
            for branch, option in enumerate(options, start=1):
                places = range(len(row.tokens), len(row.tokens) + len(option) - 1)
                row.append(option[:-1], len(query), tree, branch)
                predict = [after_query, *range(len(states), len(states) + len(places))]
                states += [(number, place) for place in places]
                answers += [(s, t, options_before) for s, t in zip(predict, option, strict=True)]
                options_before += 1
    # All of it in one transfer.
    parts = [
        _stack([row.tokens for row in laid], 0),
        _stack([row.position_ids for row in laid], 0),
        _stack([row.trees for row in laid], -1),
        _stack([row.branches for row in laid], 0),
        torch.tensor(states).T,
        torch.tensor(answers).T,
    ]
    sent = to_device(torch.cat([part.flatten() for part in parts]), device)
    pieces = sent.split([part.numel() for part in parts])
    tokens, position_ids, tree, branch, predicting, predicted = (
        piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)
    )
    # Tokens of a tree come in their causal order, the query first.
    visible = tree[:, :, None] == tree[:, None, :]
    visible &= (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return PackedTrees(tokens, position_ids, visible.tril_(), *predicting, *predicted)


class _Row:
    """A row's tokens in their causal order, and of each its place in a tree."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.tokens: list[int] = []
        self.position_ids: list[int] = []
        self.trees: list[int] = []
        self.branches: list[int] = []  # 0 for a query

    def append(self, tokens: Sequence[int], position: int, tree: int, branch: int) -> None:
        """Add tokens, the first of which has this position after the context."""
        self.tokens += tokens
        self.position_ids += range(position, position + len(tokens))
        self.trees += [tree] * len(tokens)
        self.branches += [branch] * len(tokens)


def _stack(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stack numbers into (rows, longest), with `value` where a row has none."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def tree_states(llm: DecoderOnlyLLM, prefilled: PrefilledContext, rows: PackedTrees) -> Tensor:
    """Return the predicting states, (states, width), of packed trees.

    prefilled: the context of each row.
    """
    lengths, size = prefilled.lengths, rows.tokens.shape[1]
    cached = 0 if prefilled.cache is None else prefilled.cache.get_seq_length()
    context = prefilled.mask
    if context is None:
        context = rows.tokens.new_ones(len(lengths), cached)
    before = context.bool()[:, None, :].expand(-1, size, -1)
    visible = torch.cat([before, rows.visible], dim=2)[:, None]
    # Added to attention scores, as every attention takes it. A GPU's attention makes a copy at each
    # layer of a mask whose rows do not start at multiples of 8 numbers.
    width = visible.shape[-1]
    mask = visible.new_zeros((*visible.shape[:-1], -(-width // 8) * 8), dtype=llm.dtype)
    mask = mask[..., :width].masked_fill_(~visible, torch.finfo(llm.dtype).min)
    output = llm.body(
        input_ids=rows.tokens,
        attention_mask=mask,
        position_ids=lengths[:, None] + rows.position_ids,
        past_key_values=prefilled.cache,
        use_cache=prefilled.cache is not None,
    )
    return output.last_hidden_state[rows.row, rows.place]
