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

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the memory after each sequence's last segment."""
        import torch

        memories = self._memories(trained, demonstrations)
        return llm.vector_context(torch.stack([of_row[-1] for of_row in memories]))

    def _memories(
        self, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> list[list[Tensor]]:
        """Return the memory after each segment of each sequence, (l, width)."""
        parts = [self._segments(one) for one in demonstrations]
        rows: list[list[Tensor]] = [[] for _ in parts]
        for number in range(max(map(len, parts))):
            active = [row for row, own in enumerate(parts) if number < len(own)]
            texts = [parts[row][number] for row in active]
            before = [rows[row][-1] for row in active] if number else None
            found = trained.compressor.vectors(texts, before)
            for row, memory in zip(active, found, strict=True):
                rows[row].append(memory)
        return rows

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
        found = self._memories(trained, demonstrations)
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
