"""What an LLM reads before queries, a batch at a time: contexts of each kind, behind one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mend.models.padding import indices


@dataclass(frozen=True)
class TokenContexts:
    """Contexts made of tokens, each a list of token ids."""

    tokens: Sequence[Sequence[int]]

    @property
    def lengths(self) -> list[int]:
        """How many positions each context takes."""
        return [len(tokens) for tokens in self.tokens]

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

    vectors: Tensor
    lengths: Sequence[int]

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


Contexts = TokenContexts | VectorContexts
