"""MEND: meta demonstration distillation (section 3), and what it shares with HyperTuning."""

from __future__ import annotations

from collections.abc import Sequence

from mend.methods.base import Method
from mend.models.distiller import load_distiller
from mend.models.frozen_llm import Context, FrozenLLM


class Mend(Method):
    """l vectors that a distiller makes of the demonstrations (equation 2)."""

    name = "mend"
    distils = True

    def __init__(self, llm: FrozenLLM, method: dict, protocol: dict) -> None:
        """Load the distiller's pretrained language model."""
        super().__init__(llm, method, protocol)
        self.distiller = load_distiller(method, protocol, llm)

    def contexts(self, llm: FrozenLLM, demonstrations: Sequence[Sequence[int]]) -> Context:
        """Return the distilled vectors of each sequence."""
        return llm.vector_context(self.distiller(demonstrations))

    def longest_context(self, protocol: dict) -> int:
        """Return how many tokens the distiller reads at most before its l placeholders."""
        return self.distiller.longest_context(protocol)
