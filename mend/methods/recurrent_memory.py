"""RMT (Bulatov et al., 2022): a memory of l vectors that each segment writes anew.

"Recurrent Memory Transformer": memory tokens before a segment are read, those after it are written
and go to the next. As AutoCompressor but for that: vectors do not accumulate, so that a context has
l of them however many segments it is made of.
What differs here: see `mend.methods.auto_compressor`. The loss `segments` needs the memory after
each segment but the last, which is computed again for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mend.methods.auto_compressor import AutoCompressor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class RecurrentMemory(AutoCompressor):
    """l vectors, written anew by each of some segments."""

    display_name = "RMT"

    @property
    def _parts(self) -> int:
        """The last segment's memory is all that stays."""
        return 1

    @staticmethod
    def _carried(vectors: Sequence[Tensor]) -> Tensor:
        """Return the last segment's memory, (l, width)."""
        return vectors[-1]

    def segments_loss(
        self,
        llm: FrozenLLM,
        trained: nn.Module,
        contexts: Contexts,
        demonstrations: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return the mean loss of the segments but the first after the memory before each."""
        import torch

        from mend.models.likelihood import averaged, text_losses

        owner, texts, memories = [], [], []
        found = self._read(trained, demonstrations)
        for row, one in enumerate(demonstrations):
            for number, text in enumerate(self._segments(one)[1:]):
                owner.append(row)
                texts.append(text)
                memories.append(found[row][number])
        if not texts:
            return torch.zeros(len(demonstrations), device=llm.device)
        losses = text_losses(llm, llm.vector_context(torch.stack(memories)), texts)
        return averaged(losses, owner, len(demonstrations))

    @property
    def _longest_before(self) -> int:
        """The memory alone."""
        return self.length

    def compressed_rows(self, tokens: int) -> list[int]:
        """Return how long the rows are that the compressor reads so many tokens in."""
        count = max(1, min(self.segments, -(-tokens // self.segment)))
        each = -(-tokens // count) + self.length
        return [each + self.length * (number > 0) for number in range(count)]
