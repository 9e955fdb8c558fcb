"""SnapKV (Li et al., 2024): the keys and values that a text's last tokens attend to most.

"SnapKV: LLM Knows What You are Looking for Before Generation" lets an observation window, the last
tokens of the prompt, vote: their attention weights on what is before them are summed and pooled
along the positions, and of each head what got most stays, with the window itself (section 4). There
the window is the user's question. Here demonstrations are compressed before any query is known, so
it is their end. Where heads of queries share keys and values, their mean votes. Nothing is trained,
and positions stay those of all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"{kernel} positions have none in their middle; choose an odd number")
    return kernel


def _shorter(window: int, values: ValidationInfo) -> int:
    if window >= values.data.get("keep", window + 1):
        keep = values.data["keep"]
        raise ValueError(
            f"a window of {window} keys and values, which all stay, leaves none to choose where "
            f"keep is {keep}; choose a shorter window or a larger keep"
        )
    return window


class SnapKV(Method):
    """Of the demonstrations' keys and values, those that their last tokens attend to most."""

    display_name = "SnapKV"
    kind = "key-values"
    keep: Annotated[
        int, Field(ge=2, le=100_000, description="Keys and values that each head of a layer keeps.")
    ]
    window: Annotated[int, AfterValidator(_shorter)] = Field(
        4, ge=1, validate_default=True, description="The last tokens, which vote and stay."
    )
    kernel: Annotated[int, AfterValidator(_odd)] = Field(
        5, ge=1, description="Neighbouring positions whose votes are averaged."
    )

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the keys and values that are kept of each sequence."""
        from mend.models.contexts import KeyValueContexts

        # Of what is short enough all stays, however its last tokens vote.
        lengths = [len(tokens) for tokens in demonstrations]
        whole = [number for number, length in enumerate(lengths) if length <= self.keep]
        voting = [number for number, length in enumerate(lengths) if length > self.keep]
        parts = []
        if whole:
            parts.append(llm.key_values(llm.token_context([demonstrations[i] for i in whole])))
        if voting:
            context = llm.token_context([demonstrations[i] for i in voting])
            read, attention = llm.attended_key_values(context, self.window)
            candidates = [length - read.prefix for length in read.lengths]
            votes = [
                self._votes(weights, keys.shape[1], candidates)
                for weights, keys in zip(attention, read.keys, strict=True)
            ]
            parts.append(read.highest(votes, self.keep))
        order = [*whole, *voting]
        return KeyValueContexts.join(parts).select([order.index(i) for i in range(len(order))])

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of reading the demonstrations once, the window after the rest."""
        from mend.models.operations import sizes_of

        window = self.window if len(demonstrations) > self.keep else 0
        before = len(llm.prefix) + len(demonstrations) - window
        sizes = sizes_of(llm)
        return sizes.reading(before, 0, 0, 0) + sizes.reading(window, before, 0, 0)

    def _votes(self, weights: Tensor, heads: int, lengths: Sequence[int]) -> Tensor:
        """Return the votes on each position, (contexts, heads of keys, longest).

        weights: (contexts, heads of queries, window, longest); lengths: how many positions, on the
        right, are not padding or prefix. The window's own score is infinite.
        """
        import torch
        from torch.nn.functional import avg_pool1d, pad

        from mend.models.padding import indices

        before = weights.shape[-1] - self.window
        summed = weights[..., :before].float().sum(2)
        summed = summed.unflatten(1, (heads, -1)).mean(2)
        starts = weights.shape[-1] - indices(lengths, weights.device)
        none = torch.arange(before, device=weights.device) < starts[:, None, None]
        pooled = avg_pool1d(summed.masked_fill(none, 0.0), self.kernel, 1, self.kernel // 2)
        return pad(pooled, (0, self.window), value=torch.inf)
