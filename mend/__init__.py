"""MEND: meta demonstration distillation for efficient and effective in-context learning."""

import importlib
from typing import Any

__version__ = "0.2.0"

#: What a program imports, and the module it is in: loaded when it is asked for, for torch takes
#: seconds.
_PUBLIC = {
    "Context": "mend.library.context",
    "ContextMethod": "mend.library.methods",
    "Distiller": "mend.library.methods",
    "PromptTuning": "mend.library.methods",
    "UserError": "mend.errors",
    "VanillaICL": "mend.library.methods",
    "ZeroShot": "mend.library.methods",
    "load_llm": "mend.library.llms",
}

__all__ = list(_PUBLIC)  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mend' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
