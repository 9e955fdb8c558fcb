"""What the job is told that trains small models on local tasks' own text."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from mend.configuration.settings import Count, Seed, Settings


class ModelSize(Settings):
    """The size of a Transformer."""

    layers: Annotated[int, Field(ge=1, le=1000)]
    """Transformer blocks."""

    width: Annotated[int, Field(ge=1, le=100_000)]
    """Hidden size."""

    heads: Count
    """Attention heads; they divide the width."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide the width, {self.width}")
        return self


class LocalModelsSettings(Settings):
    """A small tokenizer and GPT-2 pair, trained here on the tasks' own text into
    RESULTS/local-models/{gpt2,gpt2-small}: to try the path, not for scores."""

    vocabulary: Annotated[int, Field(ge=257, le=1_000_000)]
    """Tokens of the byte-level BPE tokenizer."""

    positions: Annotated[int, Field(ge=32, le=1_000_000)]
    """Longest input in tokens."""

    llm: ModelSize
    """The LLM's size."""

    distiller: ModelSize
    """The distiller's size."""

    steps: Count
    """Training steps of each model."""

    batch_size: Count
    """Windows in a step."""

    learning_rate: Annotated[float, Field(gt=0, le=1e3)]
    """Peak learning rate."""

    seed: Seed
    """Seed of the weights and of the order of text."""


class LocalModelsSpec(LocalModelsSettings):
    """The job that trains them."""

    train_tasks: list[str]
    """Whose meta-train rows are the text."""
