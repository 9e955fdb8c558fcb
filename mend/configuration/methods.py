"""The methods that there are, and what the workflow must know of them; imports no torch.

A method is a file of `mend/methods/`, found and imported by its name: so the configuration knows
its settings, and nothing here depends on any method.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError

from mend.configuration.settings import Settings, first_problem
from mend.configuration.specs.run import MethodSource
from mend.errors import UserError

FOLDER = Path(__file__).parents[1] / "methods"
NO_METHODS = ("__init__", "base", "built", "saved")


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

    #: Whether its contexts are keys and values, which not every LLM reads.
    makes_key_values: ClassVar[bool] = False

    @classmethod
    def is_trained(cls) -> bool:
        """Whether it trains anything."""
        return False

    @property
    def vectors(self) -> int | None:
        """How many vectors a context has (l); None if it has tokens or nothing."""
        return getattr(self, "length", None)


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
        raise UserError(f"methods.{source.name}.{first_problem(error)}") from None
