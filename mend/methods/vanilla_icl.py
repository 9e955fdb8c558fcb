"""Vanilla in-context learning: the LLM reads the demonstrations' own tokens (equation 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class VanillaICL(Method):
    """The demonstrations as they are."""

    display_name = "Vanilla ICL"

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the demonstrations' tokens."""
        return llm.token_context(demonstrations)
