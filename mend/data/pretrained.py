"""Models that others made, in a folder or on the hub: their one door.

What a folder holds is not trusted: none of its code is run, no pickle is read, and whatever a
library raises at what is damaged becomes one line that names it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mend.errors import UserError, first_line

#: No model has more layers, or experts in one: each would be built before weights are looked at.
MOST_LAYERS = 10_000
#: No side of a tensor is longer: one that a file lacks would be filled with random numbers first.
LARGEST_SIZE = 10**8
_NO_SIZES = ("theta", "position", "length", "base", "id")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Pretrained:
    """Where a model is: path, a folder or a name on the hub, and what it is to a message (role)."""

    path: str
    revision: str | None = None
    local_files_only: bool = False
    role: str = "the LLM"

    def options(self) -> dict[str, Any]:
        """Return what `from_pretrained` is told, whatever it loads."""
        return {
            "revision": self.revision,
            "local_files_only": self.local_files_only,
            "trust_remote_code": False,
        }

    @contextmanager
    def loading(self, what: str) -> Iterator[None]:
        """Turn whatever is raised into UserError, but for memory that runs out."""
        try:
            yield
        except (UserError, MemoryError):
            raise
        except BaseException as error:
            kind = type(error).__name__
            # Of torch, which is not imported here; a panic of a tokenizer is no Exception.
            if kind == "OutOfMemoryError":
                raise
            if not isinstance(error, Exception) and kind != "PanicException":
                raise
            raise UserError(self._line(what, first_line(error))) from error

    def refuse(self, what: str, why: str) -> UserError:
        """Return the error that says why a part of the model cannot be used."""
        return UserError(self._line(what, why))

    def _line(self, what: str, why: str) -> str:
        return f"llms: cannot load {self.role} {self.path!r}: {what}: {why}"

    def config(self) -> Any:
        """Return its configuration; raises UserError if there is none that can be used."""
        from transformers import AutoConfig

        with self.loading("config.json"):
            self._check_files()
            return AutoConfig.from_pretrained(self.path, **self.options())

    def tokenizer(self) -> Any:
        """Return its tokenizer; raises UserError if it cannot be loaded, or knows no words."""
        from transformers import AutoTokenizer

        with self.loading("its tokenizer"):
            self._check_files()
            tokenizer = AutoTokenizer.from_pretrained(self.path, **self.options())
            tokenizer("a")  # some stop here at what they lack
            words = len(tokenizer)
        if words < 2:
            raise self.refuse("its tokenizer", "it has no vocabulary")
        return tokenizer

    def _check_files(self) -> None:
        """Look at a local folder before a library does: some things would never end."""
        folder = Path(self.path)
        if not folder.is_dir():
            return
        for file in folder.iterdir():
            if file.exists() and not (file.is_file() or file.is_dir()):
                raise self.refuse(file.name, "it is no regular file")
        config = folder / "config.json"
        if config.is_file():
            _check_numbers(self, json.loads(config.read_text(encoding="utf-8")))


def _check_numbers(source: Pretrained, content: Any) -> None:
    """Raise UserError for endless layers or sizes, or a dropout that is no share, in any part.

    Architectures find that late: as they are built, or in a training's first step.
    """
    if not isinstance(content, Mapping):
        raise source.refuse("config.json", "it is no JSON object")
    for key, value in content.items():
        if isinstance(value, Mapping):
            _check_numbers(source, value)
            continue
        least, most = -math.inf, math.inf
        if "drop" in key:
            least, most = 0, 1
        elif "layer" in key or "expert" in key:
            most = MOST_LAYERS
        elif isinstance(value, int) and not any(part in key for part in _NO_SIZES):
            most = LARGEST_SIZE
        if isinstance(value, int | float) and not least <= value <= most:
            raise source.refuse("config.json", f"{key} is {value}")
