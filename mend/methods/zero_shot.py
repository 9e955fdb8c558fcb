"""Zero-shot: the LLM reads the query alone."""

from __future__ import annotations

from collections.abc import Sequence

from mend.methods.base import Method
from mend.models.frozen_llm import Context, FrozenLLM


class ZeroShot(Method):
    """An empty context."""

    name = "zero-shot"
    reads_demonstrations = False
    has_context = False

    def contexts(self, llm: FrozenLLM, demonstrations: Sequence[Sequence[int]]) -> Context:
        """Return contexts of no tokens."""
        return llm.token_context([[] for _ in demonstrations])
