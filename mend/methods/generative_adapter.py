"""Low-rank weights that a hypernetwork makes of demonstrations (HINT; Generative Adapter).

"HINT: Hypernetwork Instruction Tuning" (Ivison et al., 2023) has an encoder read an instruction and
its examples once, and makes adapters of its states; "Generative Adapter" (Chen et al., 2024) makes
low-rank weights of the states that a frozen LLM comes to in each layer, by trained outer products,
pretrained to reconstruct the context and to complete it.
What differs here: as with MEND a small language model, the distiller, reads the demonstrations, and
makes as many vectors as the rank, of which linear maps make A and B of each module. They are added
to the modules of attention's queries and values alone, where Generative Adapter changes all linear
layers of attention, HINT has prefixes besides, and lets its decoder see the encoded examples, too.
Completion of the context is what pretraining's `clm` is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from mend.errors import UserError
from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.configuration.specs.reading import ReadingSettings
    from mend.configuration.specs.run import RunSpec
    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM


class GenerativeAdapter(Method):
    """Low-rank weights, made of vectors that a distiller makes of the demonstrations."""

    display_name = "Generative adapter"
    kind = "low-rank"
    distils = True
    own_losses: ClassVar[Mapping[str, str]] = {
        "reconstruction": "Weight of the next-token loss on the demonstrations themselves, which "
        "the LLM reads with their weights."
    }
    rank: Annotated[int, Field(ge=1, le=10_000, description="Rank of the weights that are added.")]
    modules: Literal["queries-and-values", "all-linear"] = Field(
        "queries-and-values", description="The linear modules of each block that they are added to."
    )

    def trained(self, llm: FrozenLLM, run: RunSpec) -> Mapping[str, nn.Module]:
        """Return the distiller, whose vectors are as many as the rank, and the maps of them."""
        from mend.models.changes import QUERIES_AND_VALUES, linear_modules, linear_names
        from mend.models.distiller import load_distiller
        from mend.models.hypernetwork import Hypernetwork

        llm.check_changes()
        of_attention = self.modules == "queries-and-values"
        names = QUERIES_AND_VALUES if of_attention else linear_names(llm.body)
        sizes = linear_modules(llm.model, names)
        if not sizes:
            raise UserError(
                f"methods.{run.method.name}.modules: no {self.modules} are found in a "
                f"{llm.model.config.model_type}"
            )
        distiller = load_distiller(run.distiller, self.rank, run.reading, llm)
        return {"distiller": distiller, "hypernetwork": Hypernetwork(llm.width, sizes)}

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the low-rank weights of each sequence."""
        vectors = trained.distiller(demonstrations)
        if trained.distiller.adds_to_embeddings:
            vectors = vectors + llm.last_embeddings(demonstrations, self.rank)
        return llm.low_rank_context(*trained.hypernetwork(vectors))

    def reconstruction_loss(
        self,
        llm: FrozenLLM,
        trained: nn.Module,
        contexts: Contexts,
        demonstrations: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return the mean loss of the demonstrations' tokens, read with their weights."""
        from mend.models.likelihood import text_losses

        return text_losses(llm, contexts, demonstrations)

    def longest_context(self, trained: nn.Module, reading: ReadingSettings) -> int:
        """Return how many tokens the distiller reads at most before its placeholders."""
        return trained.distiller.longest_context(reading)

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of distilling, and of the maps of the vectors."""
        from mend.models.operations import DistillerSizes

        distilling = DistillerSizes(trained.distiller).operations(len(demonstrations))
        return distilling + trained.hypernetwork.operations(self.rank)
