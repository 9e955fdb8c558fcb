"""MEND: meta demonstration distillation (section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mend.methods.base import Length, Method

if TYPE_CHECKING:
    from torch import nn

    from mend.configuration.specs.reading import ReadingSettings
    from mend.configuration.specs.run import RunSpec
    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class Mend(Method):
    """l vectors that a distiller makes of the demonstrations (equation 2)."""

    display_name = "MEND"
    kind = "vectors"
    distils = True
    length: Length

    def trained(self, llm: FrozenLLM, run: RunSpec) -> Mapping[str, nn.Module]:
        """Return the distiller, which starts as a pretrained language model."""
        from mend.models.distiller import load_distiller

        llm.check_vectors()
        return {"distiller": load_distiller(run.distiller, self.length, run.reading, llm)}

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the distilled vectors of each sequence."""
        vectors = trained.distiller(demonstrations)
        if trained.distiller.adds_to_embeddings:
            vectors = vectors + llm.last_embeddings(demonstrations, trained.distiller.length)
        return llm.vector_context(vectors)

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of the distiller's pass over the demonstrations."""
        from mend.models.operations import DistillerSizes

        return DistillerSizes(trained.distiller).operations(len(demonstrations))

    def longest_context(self, trained: nn.Module, reading: ReadingSettings) -> int:
        """Return how many tokens the distiller reads at most before its l placeholders."""
        return trained.distiller.longest_context(reading)
