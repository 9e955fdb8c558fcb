"""Fewer shots at an equal budget: as many whole demonstrations as fit so many tokens.

What every compressor is to be measured against first: MemCom (2025) finds it surprisingly strong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class FewerShots(Method):
    """The first demonstrations, as many as fit whole."""

    display_name = "Fewer shots"
    keep: Annotated[
        int, Field(ge=1, le=100_000, description="Tokens of demonstrations that are read at most.")
    ]

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the tokens of those that fit; of a first one that does not, the last tokens."""
        from mend.data.demonstrations import pairs_of

        kept = []
        for tokens in demonstrations:
            shown: list[int] = []
            for x, y in pairs_of(tokens):
                if len(shown) + len(x) + len(y) > self.keep:
                    break
                shown += [*x, *y]
            # Its end is its answer.
            kept.append(shown or [*x, *y][-self.keep :] if len(tokens) else [])
        return llm.token_context(kept)
