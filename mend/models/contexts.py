"""What an LLM reads before queries, a batch at a time: contexts of each kind, behind one face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mend.models.padding import indices


@dataclass(frozen=True)
class TokenContexts:
    """Contexts made of tokens, each a list of token ids."""

    KIND: ClassVar[str] = "tokens"

    tokens: Sequence[Sequence[int]]

    @property
    def lengths(self) -> list[int]:
        """How many positions each context takes."""
        return [len(tokens) for tokens in self.tokens]

    @property
    def spans(self) -> list[int]:
        """How many of the LLM's positions each leaves no room in, without its prefix."""
        return self.lengths

    @property
    def read_anew(self) -> list[int]:
        """How many positions the LLM computes each time that a context is read."""
        return self.lengths

    @property
    def nbytes(self) -> list[int]:
        """How many bytes each context is kept in."""
        return [8 * len(tokens) for tokens in self.tokens]

    def select(self, numbers: Sequence[int]) -> TokenContexts:
        """Return the contexts of these numbers, in their order."""
        return TokenContexts([self.tokens[number] for number in numbers])

    @staticmethod
    def join(parts: Sequence[TokenContexts]) -> TokenContexts:
        """Return the contexts of several batches as one."""
        return TokenContexts([tokens for part in parts for tokens in part.tokens])


@dataclass(frozen=True)
class VectorContexts:
    """Contexts made of vectors of a word embedding's size.

    vectors: (contexts, longest, width), padded on the right; lengths: how many each has.
    """

    KIND: ClassVar[str] = "vectors"

    vectors: Tensor
    lengths: Sequence[int]

    @property
    def spans(self) -> list[int]:
        """How many of the LLM's positions each leaves no room in, without its prefix."""
        return list(self.lengths)

    @property
    def read_anew(self) -> list[int]:
        """How many positions the LLM computes each time that a context is read."""
        return list(self.lengths)

    @property
    def nbytes(self) -> list[int]:
        """How many bytes each context is kept in."""
        each = self.vectors.shape[2] * self.vectors.element_size()
        return [length * each for length in self.lengths]

    def select(self, numbers: Sequence[int]) -> VectorContexts:
        """Return the contexts of these numbers, in their order, in memory of their own."""
        lengths = [self.lengths[number] for number in numbers]
        longest = max(lengths, default=0)
        return VectorContexts(
            self.vectors[indices(numbers, self.vectors.device), :longest], lengths
        )

    @staticmethod
    def join(parts: Sequence[VectorContexts]) -> VectorContexts:
        """Return the contexts of several batches as one."""
        lengths = [length for part in parts for length in part.lengths]
        rows = [
            row[:n] for part in parts for row, n in zip(part.vectors, part.lengths, strict=True)
        ]
        return VectorContexts(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)


@dataclass(frozen=True)
class KeyValueContexts:
    """Contexts made of keys and values, as a decoder-only LLM's layers have them.

    keys, values: of each layer, (contexts, heads, longest, size of a head), padded on the left.
    lengths: how many each has, the same in all layers. positions: where the token after each
    stands, counted from 0; what was left out keeps its place. last_state: (contexts, 1, width), the
    state that predicts the next token; None if the first token after a context is not predicted.
    prefix: how many tokens of it the LLM's prefix is, which is among them.
    """

    KIND: ClassVar[str] = "keys and values"

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    lengths: Sequence[int]
    positions: Sequence[int]
    prefix: int
    last_state: Tensor | None = None

    @property
    def spans(self) -> list[int]:
        """How many of the LLM's positions each leaves no room in, without its prefix."""
        return [position - self.prefix for position in self.positions]

    @property
    def read_anew(self) -> list[int]:
        """How many positions the LLM computes each time that a context is read."""
        return [0] * len(self.lengths)

    @property
    def nbytes(self) -> list[int]:
        """How many bytes each context is kept in."""
        pairs = list(zip(self.keys, self.values, strict=True))
        each = sum(k.shape[1] * (k.shape[3] + v.shape[3]) * k.element_size() for k, v in pairs)
        return [length * each for length in self.lengths]

    def highest(self, scores: Sequence[Tensor], keep: int) -> KeyValueContexts:
        """Return, of each head, what scores highest, in the order of the text, and the prefix.

        scores: of each layer, (contexts, heads, longest); those of padding and of the prefix do not
        matter. keep: how many stay, besides the prefix. Positions stay those of the whole.
        """
        lengths = [min(self.prefix + keep, length) for length in self.lengths]
        longest = self.keys[0].shape[2]
        starts = (longest - indices(self.lengths, self.keys[0].device))[:, None, None]
        places = torch.arange(longest, device=starts.device)
        padding, prefix = places < starts, places < starts + self.prefix
        keys, values = [], []
        for k, v, score in zip(self.keys, self.values, scores, strict=True):
            # Of a shorter context padding is all that is left, and it stays on the left.
            score = score.masked_fill(prefix, torch.inf).masked_fill(padding, -torch.inf)
            kept = score.topk(max(lengths), dim=-1).indices.sort(dim=-1).values[..., None]
            keys.append(k.gather(2, kept.expand(-1, -1, -1, k.shape[3])))
            values.append(v.gather(2, kept.expand(-1, -1, -1, v.shape[3])))
        return replace(self, keys=keys, values=values, lengths=lengths)

    def select(self, numbers: Sequence[int]) -> KeyValueContexts:
        """Return the contexts of these numbers, in their order, in memory of their own."""
        rows = indices(numbers, self.keys[0].device)
        lengths = [self.lengths[number] for number in numbers]
        start = self.keys[0].shape[2] - max(lengths, default=0)
        return KeyValueContexts(
            [layer[rows, :, start:] for layer in self.keys],
            [layer[rows, :, start:] for layer in self.values],
            lengths,
            [self.positions[number] for number in numbers],
            self.prefix,
            None if self.last_state is None else self.last_state[rows],
        )

    @staticmethod
    def join(parts: Sequence[KeyValueContexts]) -> KeyValueContexts:
        """Return the contexts of several batches as one."""
        longest = max(part.keys[0].shape[2] for part in parts)

        def layers(name: str) -> list[Tensor]:
            joined = []
            for same in zip(*(getattr(part, name) for part in parts), strict=True):
                padded = [
                    torch.nn.functional.pad(one, (0, 0, longest - one.shape[2], 0)) for one in same
                ]
                joined.append(torch.cat(padded))
            return joined

        states = [part.last_state for part in parts]
        return KeyValueContexts(
            layers("keys"),
            layers("values"),
            [length for part in parts for length in part.lengths],
            [position for part in parts for position in part.positions],
            parts[0].prefix,
            None if any(state is None for state in states) else torch.cat(states),
        )


class _WithoutPositions:
    """What contexts that no position holds have in common; each has its tensors in `parts`."""

    parts: tuple[Mapping[Any, Tensor], ...]

    @property
    def lengths(self) -> list[int]:
        """How many positions each context takes: none."""
        return [0] * _number(self.parts[0])

    @property
    def spans(self) -> list[int]:
        """How many of the LLM's positions each leaves no room in: none."""
        return self.lengths

    @property
    def read_anew(self) -> list[int]:
        """How many positions the LLM computes each time that a context is read: none."""
        return self.lengths

    @property
    def nbytes(self) -> list[int]:
        """How many bytes each context is kept in."""
        tensors = [tensor for part in self.parts for tensor in part.values()]
        each = sum(tensor[0].numel() * tensor.element_size() for tensor in tensors if len(tensor))
        return [each] * len(self.lengths)


@dataclass(frozen=True)
class LowRankContexts(_WithoutPositions):
    """Contexts made of low-rank weights that are added to an LLM's own, as LoRA adds them.

    down, up: LoRA's A and B of each linear module, by its name in the model, (contexts, rank, in)
    and (contexts, out, rank): what comes after a context gets W x + up down x there, at every
    token, the LLM's prefix included.
    """

    KIND: ClassVar[str] = "low-rank weights"

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]

    @property
    def parts(self) -> tuple[Mapping[str, Tensor], ...]:
        """All tensors, by name."""
        return self.down, self.up

    def select(self, numbers: Sequence[int]) -> LowRankContexts:
        """Return the contexts of these numbers, in their order, in memory of their own."""
        return LowRankContexts(_selected(self.down, numbers), _selected(self.up, numbers))

    @staticmethod
    def join(parts: Sequence[LowRankContexts]) -> LowRankContexts:
        """Return the contexts of several batches as one; zeros fill what one of them lacks."""
        return LowRankContexts(
            _joined([part.down for part in parts]), _joined([part.up for part in parts])
        )


@dataclass(frozen=True)
class AdditionContexts(_WithoutPositions):
    """Contexts made of vectors that are added to the state of one token, after some blocks.

    vectors: of each block, by its number, (contexts, width). The token is the last one before what
    is to be predicted: a query's last.
    """

    KIND: ClassVar[str] = "additions"

    vectors: Mapping[int, Tensor]

    @property
    def parts(self) -> tuple[Mapping[int, Tensor], ...]:
        """All tensors, by block."""
        return (self.vectors,)

    def select(self, numbers: Sequence[int]) -> AdditionContexts:
        """Return the contexts of these numbers, in their order, in memory of their own."""
        return AdditionContexts(_selected(self.vectors, numbers))

    @staticmethod
    def join(parts: Sequence[AdditionContexts]) -> AdditionContexts:
        """Return the contexts of several batches as one; zeros fill what one of them lacks."""
        return AdditionContexts(_joined([part.vectors for part in parts]))


def _number(tensors: Mapping[Any, Tensor]) -> int:
    return len(next(iter(tensors.values())))


def _selected(tensors: Mapping[Any, Tensor], numbers: Sequence[int]) -> dict[Any, Tensor]:
    chosen = indices(numbers, next(iter(tensors.values())).device)
    return {name: one[chosen.to(one.device)] for name, one in tensors.items()}


def _joined(parts: Sequence[Mapping[Any, Tensor]]) -> dict[Any, Tensor]:
    """Return the tensors of several batches as one, by name; zeros stand for what is missing."""
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        known = [part[name] for part in parts if name in part]
        sizes = [max(size) for size in zip(*(one.shape[1:] for one in known), strict=True)]
        joined[name] = known[0].new_zeros(sum(map(_number, parts)), *sizes)
        start = 0
        for part in parts:
            end = start + _number(part)
            if name in part:
                one = part[name]
                joined[name][(slice(start, end), *map(slice, one.shape[1:]))] = one
            start = end
    return joined


#: Contexts that no position holds: they change what the LLM computes of what comes after them.
Changes = LowRankContexts | AdditionContexts
Contexts = TokenContexts | VectorContexts | KeyValueContexts | Changes
