"""What the job is told that turns a GGUF file into a folder in the hub's layout."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from mend.configuration.settings import PathText, Settings


class GGUFModel(Settings):
    """A model in a GGUF file, which becomes the folder RESULTS/gguf-models/NAME, in float32."""

    files: Annotated[list[PathText], Field(min_length=1, max_length=1000)]
    """The file, or its parts in order: paths, or PACKAGE/FILE of installed Python packages."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """The SHA-256 of the whole GGUF file."""
