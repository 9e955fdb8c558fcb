"""One file for each method; whatever file is here can be named in the configuration."""

from __future__ import annotations

import importlib
import pkgutil

from mend.errors import UserError
from mend.methods.base import Method
from mend.models.frozen_llm import FrozenLLM


def method_classes() -> dict[str, type[Method]]:
    """Return every method in this folder, by name."""
    classes: dict[str, type[Method]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Method) and value is not Method:
                classes[value.name] = value
    return classes


def build_method(llm: FrozenLLM, method: dict, protocol: dict) -> Method:
    """Build the method that a specification names; raises UserError for an unknown name."""
    classes = method_classes()
    if method["name"] not in classes:
        raise UserError(f"methods: unknown method {method['name']!r}; there are {sorted(classes)}")
    return classes[method["name"]](llm, method, protocol).to(llm.device)
