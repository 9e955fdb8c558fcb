"""Vanilla in-context learning: the LLM reads the demonstrations' own tokens (equation 1)."""

from __future__ import annotations

from collections.abc import Sequence

from mend.methods.base import Method
from mend.models.frozen_llm import Context, FrozenLLM


class VanillaICL(Method):
    """The demonstrations as they are."""

    name = "vanilla-icl"

    def contexts(self, llm: FrozenLLM, demonstrations: Sequence[Sequence[int]]) -> Context:
        """Return the demonstrations' word embeddings."""
        return llm.token_context(demonstrations)
