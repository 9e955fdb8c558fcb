"""Prompt tuning (Lester et al., 2021): l trained vectors, the same for every task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mend.methods.base import Method
from mend.models.frozen_llm import Context, FrozenLLM


class PromptTuning(Method):
    """One prompt, trained on the meta-training tasks' answers; it sees no demonstrations."""

    name = "prompt-tuning"
    reads_demonstrations = False

    def __init__(self, llm: FrozenLLM, method: dict, protocol: dict) -> None:
        """Start from the embeddings of random vocabulary tokens, as Lester et al. do."""
        super().__init__(llm, method, protocol)
        words = torch.randint(len(llm.tokenizer), (method["length"],), device="cpu")
        self.prompt = nn.Parameter(llm.embedding.weight[words.to(llm.device)].clone().float())

    def contexts(self, llm: FrozenLLM, demonstrations: Sequence[Sequence[int]]) -> Context:
        """Return the prompt, once for each sequence."""
        return llm.vector_context(self.prompt.expand(len(demonstrations), -1, -1))
