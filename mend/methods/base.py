"""What every method is: a way to turn demonstrations into the context that the LLM reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from safetensors.torch import load_model, save_model
from torch import nn

from mend.errors import UserError
from mend.models.frozen_llm import Context, FrozenLLM


class Method(nn.Module):
    """A method of in-context learning.

    To add one, put a file into this folder with a subclass that sets `name` and defines
    `contexts`; what it trains are its parameters. Losses and steps are in the configuration.
    """

    #: The name in the configuration, tables and paths.
    name: ClassVar[str]
    #: Whether contexts depend on the demonstrations at all.
    reads_demonstrations: ClassVar[bool] = True
    #: Whether the demonstrations go to a distiller, whose own longest context then holds.
    distils: ClassVar[bool] = False
    #: Whether the LLM reads anything before the query.
    has_context: ClassVar[bool] = True

    def __init__(self, llm: FrozenLLM, method: dict, protocol: dict) -> None:
        """Build from the `method` and `protocol` parts of a run's specification."""
        super().__init__()

    def contexts(self, llm: FrozenLLM, demonstrations: Sequence[Sequence[int]]) -> Context:
        """Return one context for each sequence of demonstration tokens."""
        raise NotImplementedError

    def longest_context(self, protocol: dict) -> int:
        """Return the most tokens of demonstrations (`protocol.longest_context`)."""
        return protocol["longest_context"]["llm"]

    def save(self, path: str | Path) -> None:
        """Write the trained weights as safetensors."""
        save_model(self, str(path))  # tensors that are shared are written once

    def load(self, path: str | Path) -> None:
        """Read weights that `save` wrote; raises UserError if they are another method's."""
        try:
            load_model(self, path)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{path}: not weights of {self.name} as configured: {error}") from error
