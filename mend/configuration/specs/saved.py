"""What a trained method's folder says of itself: `mend.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mend.configuration.choices import Dtype
from mend.configuration.settings import Revision, Settings, Text
from mend.configuration.specs.reading import ReadingSettings
from mend.configuration.specs.run import DistillerSource, MethodSource

FORMAT = 1
"""Counts up when an older program could not read what a newer one writes."""


class ModelIdentity(Settings):
    """What a model is known by, wherever it is and whatever loads it."""

    architecture: Text
    """transformers' name of it."""

    settings: dict[str, Any]
    """What its configuration says of the model itself, as far as that is not the default."""

    tokenizer: Text
    """A digest of its vocabulary, and of how it cuts a text."""

    weights: Text
    """A digest of its weights, which are those of `dtype`."""

    dtype: Text
    """The type of its weights; quantized, if they are."""

    sample: list[float] = Field(min_length=1)
    """Some of its input embeddings, which another type or quantization hardly changes."""


class SavedLLM(Settings):
    """The frozen LLM that something was made for."""

    name: Text
    """How tables call it."""

    path: Text
    """Folder or hub name."""

    revision: Revision | None = None
    """Commit or tag on the hub."""

    dtype: Dtype
    """The precision that it was loaded in."""

    prefix: Text
    """What stands before every context (`llms.*.prefix`)."""

    query_in: Literal["encoder", "decoder"] | None = None
    """Where an encoder-decoder LLM gets its query."""

    identity: ModelIdentity
    """What it is known by."""


class SavedDistiller(DistillerSource):
    """A distiller without the model that it started as, whose weights are trained by now."""

    configuration: dict[str, Any]
    """What transformers builds its model from."""


class SavedMethod(Settings):
    """A trained method, all but its weights."""

    format: Literal[1]
    """Of this file."""

    kind: Literal["method"]
    """What the folder holds."""

    made_with: Text
    """The program that wrote it."""

    llm: SavedLLM
    """The frozen LLM."""

    method: MethodSource
    """The method and its settings."""

    distiller: SavedDistiller | None
    """The distiller, if the method has one."""

    reading: ReadingSettings
    """How demonstrations and queries become tokens."""

    scores: list[dict[str, Any]] = []
    """Test scores that whoever saved it gave: rows of a study's table."""


class SavedContext(Settings):
    """A context, all but its tensor."""

    format: Literal[1]
    """Of this file."""

    kind: Literal["context"]
    """What the folder holds."""

    made_with: Text
    """The program that wrote it."""

    llm: SavedLLM
    """The frozen LLM that reads it."""

    method: Text
    """What made it."""

    content: Literal["vectors", "tokens", "key-values", "low-rank", "additions"]
    """What it is made of."""

    positions: int = Field(ge=0)
    """How many positions it takes, without the prefix."""

    shots: int | None = Field(default=None, ge=0)
    """K, the demonstrations it stands for; null where the method reads none."""

    demonstrations: Text | None = None
    """A digest of the demonstrations."""

    reading: ReadingSettings
    """How queries become tokens."""
