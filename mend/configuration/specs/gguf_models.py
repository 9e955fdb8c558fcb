"""What the job is told that turns a GGUF file into a folder in the hub's layout."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from mend.configuration.settings import PathText, Settings


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("a SHA-256 is 64 of the digits 0-9a-f, as sha256sum prints it")
    return text


class GGUFModel(Settings):
    """A model in a GGUF file, which becomes the folder RESULTS/gguf-models/NAME, in float32."""

    files: Annotated[list[PathText], Field(min_length=1, max_length=1000)]
    """The file, or its parts in order: paths, or PACKAGE/FILE of installed Python packages."""

    sha256: Annotated[str, AfterValidator(_sha256)]
    """The SHA-256 of the whole GGUF file."""
