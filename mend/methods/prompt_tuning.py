"""Prompt tuning (Lester et al., 2021): l trained vectors, the same for every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mend.methods.base import Length, Method

if TYPE_CHECKING:
    from torch import nn

    from mend.configuration.specs.run import RunSpec
    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class PromptTuning(Method):
    """One prompt, trained on the meta-training tasks' answers; it sees no demonstrations."""

    display_name = "Prompt tuning"
    kind = "vectors"
    reads_demonstrations = False
    length: Length

    def trained(self, llm: FrozenLLM, run: RunSpec) -> Mapping[str, nn.Parameter]:
        """Return the prompt: embeddings of random vocabulary tokens, as Lester et al. start."""
        import torch

        llm.check_vectors()
        words = torch.randint(llm.vocabulary, (self.length,), device="cpu")
        # By the embedding's own forward pass: some scale what they look up.
        start = llm.embedding(words.to(llm.device)).detach().clone().float()
        return {"prompt": torch.nn.Parameter(start)}

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the prompt, once for each sequence."""
        return llm.vector_context(trained.prompt.expand(len(demonstrations), -1, -1))
