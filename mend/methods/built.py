"""A method that is ready to train, to score with, or to save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_model, save_model
from torch import nn

from mend.configuration.methods import make_method
from mend.configuration.specs.run import RunSpec
from mend.errors import UserError
from mend.methods.base import Method
from mend.models.frozen_llm import Context, FrozenLLM


class BuiltMethod(nn.Module):
    """A method with what it trains, which are this module's parameters."""

    def __init__(self, method: Method, llm: FrozenLLM, run: RunSpec) -> None:
        """Make what `method` trains for an LLM."""
        super().__init__()
        self.method, self.name, self.reading = method, run.method.name, run.reading
        for name, part in method.trained(llm, run).items():
            setattr(self, name, part)
        self.to(llm.device)
        # What is trained decides, unless the distiller is to be exact (`precision: float32`).
        self.rounds_to_tf32 = run.distiller is None or run.distiller.precision == "auto"

    @property
    def reads_demonstrations(self) -> bool:
        """Whether contexts depend on the demonstrations at all."""
        return self.method.reads_demonstrations

    @property
    def distils(self) -> bool:
        """Whether the demonstrations go to a distiller."""
        return self.method.distils

    @property
    def vectors(self) -> int | None:
        """How many vectors a context has (l); None if it has tokens or nothing."""
        return self.method.vectors

    @property
    def has_context(self) -> bool:
        """Whether the LLM reads anything before the query."""
        return self.method.has_context

    def contexts(self, llm: FrozenLLM, demonstrations: Sequence[Sequence[int]]) -> Context:
        """Return one context for each sequence of demonstration tokens."""
        return self.method.contexts(llm, self, demonstrations)

    def longest_context(self) -> int:
        """Return how many tokens of demonstrations are read at most (protocol.longest_context)."""
        return self.method.longest_context(self, self.reading)

    def save(self, path: str | Path) -> None:
        """Write the trained weights as safetensors."""
        save_model(self, str(path))  # tensors that are shared are written once

    def load(self, path: str | Path) -> None:
        """Read weights that `save` wrote; raises UserError if they are another method's."""
        try:
            load_model(self, path)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{path}: not weights of {self.name} as configured: {error}") from error


def build_method(llm: FrozenLLM, run: RunSpec) -> BuiltMethod:
    """Build the method that a run's specification names; raises UserError if it cannot be."""
    return BuiltMethod(make_method(run.method), llm, run)
