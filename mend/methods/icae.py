"""ICAE (Ge et al., 2023): the LLM with LoRA makes vectors, which the frozen LLM reads.

"In-context Autoencoder for Context Compression in a Large Language Model": memory tokens after the
text, whose last hidden states are the context. Pretrained by autoencoding (the text again, after a
trained token that asks for it) and by the text's continuation, then finetuned on instructions.
What differs here: LoRA is on all linear layers, and not on queries and values alone; the two
losses of pretraining are added, where the paper mixes examples of both; finetuning is on the
meta-training tasks' answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from mend.methods.base import Length
from mend.methods.compressing import CompressingMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.configuration.specs.reading import ReadingSettings
    from mend.configuration.specs.run import RunSpec
    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class ICAE(CompressingMethod):
    """l vectors that the LLM with LoRA makes of the demonstrations."""

    display_name = "ICAE"
    kind = "vectors"
    own_losses: ClassVar[Mapping[str, str]] = {
        "autoencoding": "Weight of the next-token loss on the demonstrations themselves, which the "
        "LLM reads out of their context."
    }
    length: Length

    def trained(self, llm: FrozenLLM, run: RunSpec) -> Mapping[str, nn.Module | nn.Parameter]:
        """Return the compressor, and the vector that asks for the text."""
        import torch

        from mend.models.compressor import Compressor

        llm.check_vectors()
        compressor = Compressor(llm, self.length, self.lora_rank)
        asking = compressor.placeholders.detach().mean(0, keepdim=True).clone()
        return {"compressor": compressor, "asking": torch.nn.Parameter(asking)}

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the vectors of each sequence."""
        return llm.vector_context(trained.compressor.vectors(demonstrations))

    def autoencoding_loss(
        self,
        llm: FrozenLLM,
        trained: nn.Module,
        contexts: Contexts,
        demonstrations: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return the mean loss of the demonstrations' tokens after their vectors (section 2.2)."""
        import torch

        from mend.models.likelihood import text_losses

        asking = trained.asking.to(contexts.vectors.dtype).expand(len(demonstrations), -1, -1)
        asked = llm.vector_context(torch.cat([contexts.vectors, asking], dim=1))
        return text_losses(llm, asked, demonstrations)

    def longest_context(self, trained: nn.Module, reading: ReadingSettings) -> int:
        """Return how many tokens the compressor reads at most before its placeholders."""
        return trained.compressor.longest_context(reading)

    def compressed_rows(self, tokens: int) -> list[int]:
        """Return how long the rows are that the compressor reads so many tokens in."""
        return [tokens + self.length]
