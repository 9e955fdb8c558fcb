"""What the job is told that trains small models on local tasks' own text."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mend.configuration.settings import Count, Seed, Settings


class ModelSize(Settings):
    """The size of a Transformer."""

    layers: Count
    """Transformer blocks."""

    width: Count
    """Hidden size."""

    heads: Count
    """Attention heads."""


class LocalModelsSettings(Settings):
    """A small tokenizer and GPT-2 pair, trained here on the tasks' own text into
    RESULTS/local-models/{gpt2,gpt2-small}: to try the path, not for scores."""

    vocabulary: Annotated[int, Field(ge=257)]
    """Tokens of the byte-level BPE tokenizer."""

    positions: Annotated[int, Field(ge=32)]
    """Longest input in tokens."""

    llm: ModelSize
    """The LLM's size."""

    distiller: ModelSize
    """The distiller's size."""

    steps: Count
    """Training steps of each model."""

    batch_size: Count
    """Windows in a step."""

    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate."""

    seed: Seed
    """Seed of the weights and of the order of text."""


class LocalModelsSpec(LocalModelsSettings):
    """The job that trains them."""

    train_tasks: list[str]
    """Whose meta-train rows are the text."""
