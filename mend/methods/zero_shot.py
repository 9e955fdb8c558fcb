"""Zero-shot: the LLM reads the query alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class ZeroShot(Method):
    """An empty context."""

    display_name = "Zero-shot"
    reads_demonstrations = False
    has_context = False

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return contexts of no tokens."""
        return llm.token_context([[] for _ in demonstrations])
