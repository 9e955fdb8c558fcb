"""All keys and values of the demonstrations: what evicting some of them is compared with.

The LLM reads the demonstrations once, as vanilla in-context learning does, and what its attention
needs of them is kept. So scores are those of vanilla in-context learning; what differs is that no
layer is computed again when the context is read, and how many bytes it is kept in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class KVCache(Method):
    """The demonstrations' keys and values, all of them."""

    display_name = "Vanilla ICL, keys and values kept"
    kind = "key-values"

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the keys and values of each sequence."""
        return llm.key_values(llm.token_context(demonstrations))

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of reading the demonstrations once."""
        from mend.models.operations import sizes_of

        return sizes_of(llm).reading(len(llm.prefix) + len(demonstrations), 0, 0, 0)
