"""What every method is: a way to turn demonstrations into the context that the LLM reads.

A method's file is imported while the workflow is parsed, so nothing in it imports torch outside of
a function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mend.configuration.methods import MethodSettings
from mend.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.configuration.specs.reading import ReadingSettings
    from mend.configuration.specs.run import RunSpec
    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM

Length = Annotated[
    int, Field(ge=1, le=100_000, description="l, vectors that stand for the demonstrations.")
]

Rank = Annotated[
    int, Field(ge=1, le=10_000, description="Rank of the adapters of the LLM's copy (LoRA).")
]
Segment = Annotated[
    int, Field(ge=1, le=100_000, description="Tokens of a segment of demonstrations, at most.")
]
Segments = Annotated[
    int, Field(ge=1, le=10_000, description="Segments that demonstrations are read in, at most.")
]


class Method(MethodSettings):
    """A method of in-context learning.

    To add one, put a file into this folder with a subclass that sets `display_name`, has its
    settings as fields, and defines `contexts` and, if it trains anything, `trained`. Its name in
    the configuration is the file's, with `-` for `_`. Losses and steps are in the configuration.
    """

    @classmethod
    def is_trained(cls) -> bool:
        """Whether it trains anything: then it says what in `trained`."""
        return cls.trained is not Method.trained

    def trained(self, llm: FrozenLLM, run: RunSpec) -> Mapping[str, nn.Module | nn.Parameter]:
        """Return what is trained, by name, as it is before training; nothing by default."""
        return {}

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return one context for each sequence of demonstration tokens.

        trained: has what `trained` returned as attributes, as far as it is trained by now.
        """
        raise NotImplementedError

    def own_loss(
        self,
        name: str,
        llm: FrozenLLM,
        trained: nn.Module,
        contexts: Contexts,
        demonstrations: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return a loss of `own_losses` for each of the demonstrations, (contexts,).

        contexts: what `contexts` made of them. The method NAME_loss computes it, of this one's
        arguments but the name. Raises UserError if there is none such.
        """
        if name not in self.own_losses:
            raise UserError(f"losses: {self.display_name} has no loss {name}; leave it out")
        return getattr(self, f"{name}_loss")(llm, trained, contexts, demonstrations)

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the floating-point operations of making the context of a sequence, once trained.

        NaN if they are not known; unless a method says more, only tokens that are chosen cost
        nothing, and so does what does not depend on demonstrations.
        """
        free = self.kind == "tokens" or not self.reads_demonstrations
        return 0.0 if free else math.nan

    def longest_context(self, trained: nn.Module, reading: ReadingSettings) -> int:
        """Return how many tokens of demonstrations are read at most (protocol.longest_context)."""
        return reading.longest_context.llm
