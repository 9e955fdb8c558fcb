"""The methods that there are, and what the workflow must know of them; imports no torch.

A method is a file of `mend/methods/`, found and imported by its name: so the configuration knows
its settings, and nothing here depends on any method.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationError

from mend.configuration.settings import Settings, first_problem
from mend.configuration.specs.run import MethodSource
from mend.errors import UserError

FOLDER = Path(__file__).parents[1] / "methods"
NO_METHODS = ("__init__", "base", "built", "compressing", "saved")


ContextKind = Literal["tokens", "vectors", "key-values", "low-rank", "additions"]
"""What a method's contexts are (`mend.models.contexts`)."""


class MethodSettings(Settings):
    """What a method says of itself; its fields are its own settings in the configuration."""

    #: How tables and figures call it.
    display_name: ClassVar[str]
    #: Whether contexts depend on the demonstrations at all.
    reads_demonstrations: ClassVar[bool] = True
    #: Whether the demonstrations go to the LLM's distiller, whose own longest context then holds.
    distils: ClassVar[bool] = False
    #: Whether the LLM reads anything before the query.
    has_context: ClassVar[bool] = True

    #: What its contexts are: not every LLM reads all kinds.
    kind: ClassVar[ContextKind] = "tokens"
    #: Whether its contexts come after the demonstrations' own positions, which stay taken.
    keeps_positions: ClassVar[bool] = False
    #: Whether it trains a copy of the LLM itself.
    adapts_llm: ClassVar[bool] = False
    #: Losses of its own, by name, with what each is. See `mend.methods.base.Method.own_loss`.
    own_losses: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def is_trained(cls) -> bool:
        """Whether it trains anything."""
        return False

    @property
    def context_length(self) -> int | None:
        """How many of the LLM's positions a context takes in place of its demonstrations: l.

        None: theirs. 0: none, of what changes the LLM.
        """
        return 0 if self.kind in ("low-rank", "additions") else getattr(self, "length", None)


def method_names() -> list[str]:
    """Return the names of all methods in the configuration: their files' with `-` for `_`."""
    files = sorted(FOLDER.glob("*.py"))
    return [file.stem.replace("_", "-") for file in files if file.stem not in NO_METHODS]


def method_module(name: str) -> str:
    """Return the module that a method is in."""
    return f"mend.methods.{name.replace('-', '_')}"


@cache
def method_class(name: str) -> type[MethodSettings]:
    """Return a method's class; no other method's file is imported, unless its file does so.

    Raises UserError if there is no such method, or its file has none or several.
    """
    if name not in method_names():
        raise UserError(f"methods: unknown method {name!r}; there are {', '.join(method_names())}")
    module = importlib.import_module(method_module(name))
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, MethodSettings)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(f"{module.__file__}: a method's file has one method, not {len(found)}")
    return found[0]


def method_classes() -> dict[str, type[MethodSettings]]:
    """Return every method by its name in the configuration."""
    return {name: method_class(name) for name in method_names()}


def make_method(source: MethodSource) -> MethodSettings:
    """Return the method that a specification names; raises UserError for settings it has not."""
    try:
        return method_class(source.name)(**source.settings)
    except ValidationError as error:
        # What settings come to together has no key of its own.
        problem = first_problem(error)
        of_key = "" if problem.startswith(":") else "."
        raise UserError(f"methods.{source.name}{of_key}{problem}") from None
