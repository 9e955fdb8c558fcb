"""Demonstrations beyond the window: distilled a group at a time, their vectors joined in order.

The paper leaves demonstrations that exceed the distiller's context to future work. Here K of them
become K/n groups of n, each truncated and distilled by itself, and the LLM reads (K/n) l vectors.
Methods know nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mend.errors import UserError
from mend.methods.built import BuiltMethod
from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM


class GroupedMethod:
    """A built method that distils, for contexts that are sequences of groups of demonstrations."""

    reads_demonstrations = has_context = distils = True

    def __init__(self, method: BuiltMethod) -> None:
        """Wrap a method; raises UserError if it does not distil vectors."""
        if not (method.distils and method.method.kind == "vectors"):
            raise UserError(
                f"group: {method.name} does not distil demonstrations into vectors, so there is "
                "nothing to join; leave `group` out for it"
            )
        self.method, self.name, self.reading = method, method.name, method.reading
        self.context_length, self.keeps_positions = method.context_length, False

    @property
    def training(self) -> bool:
        """Whether the method is in training mode."""
        return self.method.training

    def train(self, mode: bool = True) -> None:
        """Set the training mode."""
        self.method.train(mode)

    def eval(self) -> None:
        """Leave the training mode."""
        self.method.eval()

    def longest_context(self) -> int:
        """Return how many tokens of one group are read at most."""
        return self.method.longest_context()

    def contexts(
        self, llm: FrozenLLM, demonstrations: Sequence[Sequence[Sequence[int]]]
    ) -> Contexts:
        """Return the joined vectors of each sequence of groups, in their order.

        demonstrations: for each context its groups, at least one, as token ids. As many groups are
        distilled at once as there are contexts, which bounds the memory.
        """
        single = [ids for groups in demonstrations for ids in groups]
        at_once = len(demonstrations)
        parts = [
            self.method.contexts(llm, single[start : start + at_once]).vectors
            for start in range(0, len(single), at_once)
        ]
        vectors = torch.cat(parts).split([len(groups) for groups in demonstrations])
        joined = [part.flatten(0, 1) for part in vectors]
        padded = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)
        return llm.vector_context(padded, [len(part) for part in joined])
