"""Keys and values of l tokens at every layer, made by the LLM with LoRA: 500xCompressor (Li, 2024).

"500xCompressor: Generalized Prompt Compression for Large Language Models": as ICAE, but what the
frozen LLM gets of the compressed tokens are their keys and values in all layers, not their last
states; MemCom (2025) finds, too, that summaries of each layer keep more than those of one.
Pretrained by autoencoding, asked for by the token that begins a text, then finetuned on questions.
What differs here: LoRA is on all linear layers; finetuning is on the meta-training tasks' answers;
MemCom's cross-attention, which is trained for each layer, is not there: placeholders attend to the
demonstrations as the LLM's own layers do. Positions go on after the demonstrations' own, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mend.methods.icae import ICAE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.configuration.specs.run import RunSpec
    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class KVCompressor(ICAE):
    """Keys and values of l placeholders, at every layer."""

    display_name = "500xCompressor"
    kind = "key-values"
    keeps_positions = True

    def trained(self, llm: FrozenLLM, run: RunSpec) -> Mapping[str, nn.Module]:
        """Return the compressor."""
        from mend.models.compressor import Compressor

        llm.check_key_values()
        return {"compressor": Compressor(llm, self.length, self.lora_rank)}

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the keys and values of each sequence's placeholders."""
        return trained.compressor.key_values(llm, demonstrations)

    def autoencoding_loss(
        self,
        llm: FrozenLLM,
        trained: nn.Module,
        contexts: Contexts,
        demonstrations: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return the mean loss of the demonstrations' tokens after their keys and values."""
        from mend.models.likelihood import text_losses

        tokenizer = llm.tokenizer
        known = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
        start = next((token for token in known if token is not None), None)
        return text_losses(llm, contexts, demonstrations, asking=[] if start is None else [start])
