"""What methods have in common whose compressor is the LLM itself with LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mend.methods.base import Method, Rank

if TYPE_CHECKING:
    from torch import nn

    from mend.models.frozen_llm import FrozenLLM


class CompressingMethod(Method):
    """A method that trains the LLM's copy with LoRA, as `compressor` (`mend.models.compressor`)."""

    adapts_llm = True
    lora_rank: Rank

    def compressed_rows(self, tokens: int) -> list[int]:
        """Return how long the rows are that the compressor reads so many tokens in."""
        raise NotImplementedError

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of the compressor's rows."""
        from mend.models.operations import CompressorSizes

        rows = self.compressed_rows(len(demonstrations))
        return CompressorSizes(trained.compressor).operations(rows)
