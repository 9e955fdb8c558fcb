"""AutoCompressor (Chevalier et al., 2023): summary vectors of segments, which accumulate.

"Adapting Language Models to Compress Contexts": a text is read segment by segment, each after the
summary vectors of all segments before it, and adds vectors of its own; trained by next-token
prediction of each segment after the vectors before it. So demonstrations may be more than the
LLM's window, in training too.
What differs here: what compresses is a copy of the LLM with LoRA, and what predicts segments and
answers is the frozen LLM (the paper trains one model for both); gradients go through all segments
(the paper stops them after two); a segment is as many whole demonstrations as fit it, or as many
tokens of a text (the paper draws lengths).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from mend.errors import UserError
from mend.methods.base import Length, Segment, Segments
from mend.methods.compressing import CompressingMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.configuration.specs.reading import ReadingSettings
    from mend.configuration.specs.run import RunSpec
    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class AutoCompressor(CompressingMethod):
    """Vectors of each of some segments of the demonstrations, which all stay."""

    display_name = "AutoCompressor"
    kind = "vectors"
    own_losses: ClassVar[Mapping[str, str]] = {
        "segments": "Weight of the next-token loss on each segment of the demonstrations after the "
        "vectors of those before it."
    }
    length: Length
    segment: Segment
    segments: Segments

    @model_validator(mode="after")
    def _equal_shares(self) -> AutoCompressor:
        if self.length % self._parts:
            raise ValueError(f"length {self.length} is not {self._parts} segments' equal shares")
        return self

    @property
    def _parts(self) -> int:
        """How many segments the vectors of a context are of."""
        return self.segments

    @property
    def _added(self) -> int:
        """Vectors that the compressor makes of a segment."""
        return self.length // self._parts

    def trained(self, llm: FrozenLLM, run: RunSpec) -> Mapping[str, nn.Module]:
        """Return the compressor, whose placeholders are those of every segment."""
        from mend.models.compressor import Compressor

        llm.check_vectors()
        compressor = Compressor(llm, self._added, self.lora_rank)
        room = compressor.room(self._longest_before)
        if self.segment > room:
            raise UserError(
                f"segment: {self.segment} tokens do not fit the LLM's {compressor.max_positions} "
                f"positions beside {self._longest_before} vectors of earlier segments and "
                f"{self._added} placeholders; at most {max(0, room)} do"
            )
        return {"compressor": compressor}

    @property
    def _longest_before(self) -> int:
        """Vectors that a segment comes after, at most."""
        return self._added * (self.segments - 1)

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the vectors of each sequence's segments, in their order."""
        import torch

        joined = [self._carried(row) for row in self._read(trained, demonstrations)]
        padded = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)
        return llm.vector_context(padded, [len(row) for row in joined])

    @staticmethod
    def _carried(vectors: Sequence[Tensor]) -> Tensor:
        """Return what stays of the vectors of some segments, (n, width): all of them."""
        import torch

        return torch.cat([*vectors])

    def _read(
        self, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> list[list[Tensor]]:
        """Return the vectors of each segment of each sequence, read after those before it."""
        parts = [self._segments(one) for one in demonstrations]
        rows: list[list[Tensor]] = [[] for _ in parts]
        for number in range(max(map(len, parts))):
            active = [row for row, own in enumerate(parts) if number < len(own)]
            texts = [parts[row][number] for row in active]
            before = [self._carried(rows[row]) for row in active] if number else None
            found = trained.compressor.vectors(texts, before)
            for row, vectors in zip(active, found, strict=True):
                rows[row].append(vectors)
        return rows

    def segments_loss(
        self,
        llm: FrozenLLM,
        trained: nn.Module,
        contexts: Contexts,
        demonstrations: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return the mean loss of the segments but the first after the vectors before each.

        (contexts,); 0 for what is one segment. Section 3.2 of the paper.
        """
        from mend.models.likelihood import averaged, text_losses
        from mend.models.padding import indices

        owner, texts, lengths = [], [], []
        for row, one in enumerate(demonstrations):
            for number, text in enumerate(self._segments(one)[1:], start=1):
                owner.append(row)
                texts.append(text)
                lengths.append(number * self._added)
        before = contexts.vectors[indices(owner, contexts.vectors.device)]
        losses = text_losses(llm, llm.vector_context(before, lengths), texts)
        return averaged(losses, owner, len(demonstrations))

    def _segments(self, tokens: Sequence[int]) -> list[list[int]]:
        from mend.data.demonstrations import segments

        return segments(tokens, self.segments, self.segment)

    def longest_context(self, trained: nn.Module, reading: ReadingSettings) -> int:
        """Return how many tokens all segments have, however many the LLM reads at once."""
        return self.segments * self.segment

    def compressed_rows(self, tokens: int) -> list[int]:
        """Return how long the rows are that the compressor reads so many tokens in."""
        count = max(1, min(self.segments, -(-tokens // self.segment)))
        each = -(-tokens // count) + self._added
        return [self._added * number + each for number in range(count)]
