"""How tasks without options are scored: by what the LLM generates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mend.configuration.settings import Settings

AnswerMetric = Literal["exact-match", "f1", "rouge-l"]


class FreeForm(Settings):
    """How a free-form task is answered and scored."""

    metric: AnswerMetric = "f1"
    """free-form: exact match or F1 of words, as SQuAD has them, or ROUGE-L (F-measure)."""

    longest_answer: Annotated[int, Field(ge=1, le=4096)] = 32
    """free-form: how many tokens are generated at most."""
