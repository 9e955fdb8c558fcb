"""Keys and values whose keys are small: what attention looks at most (Devoto et al., 2024).

"A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression" finds that the keys that
get most attention have small norms. So of the demonstrations' keys and values each head of each
layer keeps those with the smallest. Nothing is trained, and positions stay those of all tokens.
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


class KeyNorm(Method):
    """Of the demonstrations' keys and values, those with the smallest keys."""

    display_name = "Key norm"
    kind = "key-values"
    keep: Annotated[
        int, Field(ge=1, le=100_000, description="Keys and values that each head of a layer keeps.")
    ]

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the keys and values that are kept of each sequence."""
        whole = llm.key_values(llm.token_context(demonstrations))
        return whole.highest([-keys.norm(dim=-1) for keys in whole.keys], self.keep)

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of reading the demonstrations once."""
        from mend.models.operations import sizes_of

        return sizes_of(llm).reading(len(llm.prefix) + len(demonstrations), 0, 0, 0)
