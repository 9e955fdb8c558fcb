"""How rows become tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mend.configuration.settings import LARGEST_COUNT, Count, Settings


class LongestContext(Settings):
    """Tokens of demonstrations that are read at most."""

    llm: Count
    """Tokens of demonstrations that the LLM reads at most."""

    distiller: Count
    """Tokens of demonstrations that the distiller reads at most."""


class Separators(Settings):
    """The text between the parts of demonstrations."""

    input_output: str
    """Between a demonstration's input and output."""

    demonstrations: str
    """Between demonstrations."""


class ReadingSettings(Settings):
    """The part of `protocol` that decides how rows become tokens."""

    longest_context: LongestContext
    """The longest demonstrations of LLM and distiller."""

    separators: Separators
    """The template."""

    demonstration_overflow: Literal["omit", "cut-input", "oldest-tokens"]
    """A demonstration that does not fit is left out with all after it, or its input is cut, or
    the oldest tokens of all fall off."""

    example_truncation: Literal["input-and-output", "input-only"]
    """What longest_example limits: input and output together, or the input alone."""

    longest_example: Annotated[int, Field(ge=4, le=LARGEST_COUNT)]
    """Tokens that one example may have before its input is cut."""
