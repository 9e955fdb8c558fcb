"""What the job is told that cuts a corpus into chunks of tokens."""

from __future__ import annotations

from typing import Literal

from mend.configuration.settings import Count, PathText, Revision, Settings, Text

PretrainingChunks = Literal["fixed-windows", "per-document"]


class TokenizerSource(Settings):
    """An LLM whose tokenizer is used."""

    path: PathText
    """Folder or hub name of the LLM."""

    revision: Revision | None = None
    """Commit or tag on the hub."""

    local_files_only: bool = False
    """Never look on the network."""


class ChunksSpec(Settings):
    """A corpus in chunks of an LLM's tokens."""

    llm: TokenizerSource
    """Whose tokens."""

    window: Count
    """Tokens in a chunk."""

    pretraining_chunks: PretrainingChunks
    """Documents joined and cut into windows, or the beginning of each."""

    documents: Count | None = None
    """Read at most so many documents; null reads all."""

    column: Text = "text"
    """Which key of a JSON row holds the text."""
