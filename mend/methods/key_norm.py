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
    makes_key_values = True
    keep: Annotated[
        int, Field(ge=1, le=100_000, description="Keys and values that each head of a layer keeps.")
    ]

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the keys and values that are kept of each sequence."""
        from mend.models.contexts import KeyValueContexts

        whole = llm.key_values(llm.token_context(demonstrations))
        lengths = [min(self.keep, length) for length in whole.lengths]
        keys, values = [], []
        for k, v in zip(whole.keys, whole.values, strict=True):
            norms = k.norm(dim=-1)
            for row, length in enumerate(whole.lengths):  # padding, on the left, comes last
                norms[row, :, : k.shape[2] - length] = float("inf")
            # In the order of the text; of a shorter context padding stays on the left.
            smallest = norms.topk(max(lengths), dim=-1, largest=False).indices
            places = smallest.sort(dim=-1).values
            keys.append(_chosen(k, places))
            values.append(_chosen(v, places))
        kept = (whole.positions, whole.prefix, whole.last_state)
        return KeyValueContexts(keys, values, lengths, *kept)


def _chosen(layer, places):
    """Return the vectors of a layer, (contexts, heads, n, size), at (contexts, heads, kept)."""
    return layer.gather(2, places[..., None].expand(*places.shape, layer.shape[-1]))
