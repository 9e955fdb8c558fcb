"""What every job with an LLM and a method is told of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mend.configuration.choices import Dtype
from mend.configuration.settings import PackagePath, Revision, Settings, Text
from mend.configuration.specs.reading import ReadingSettings


def _rising(layers: list[int]) -> list[int]:
    if any(after <= before for before, after in zip(layers, layers[1:], strict=False)):
        raise ValueError("it is not rising; name each block once, in the model's own order")
    return layers


Blocks = Annotated[
    list[Annotated[int, Field(ge=0, lt=10_000)]], Field(min_length=1), AfterValidator(_rising)
]
"""Some of a model's blocks, counted from 0."""


class LLMLoading(Settings):
    """Where a frozen LLM is, and how it is loaded."""

    path: PackagePath
    """Folder or hub name of the LLM."""

    revision: Revision | None = None
    """Commit or tag on the hub."""

    dtype: Dtype = "float32"
    """Precision of the frozen LLM."""

    int8: bool = False
    """Load the frozen LLM in 8 bit; needs bitsandbytes and a GPU."""

    sharded: bool = False
    """Spread the frozen LLM over the GPUs that train together (docs/training.md); not with
    int8."""

    local_files_only: bool = False
    """Never look on the network."""

    prefix: Text = "auto"
    """Before every context of the LLM and of its distiller: what the tokenizer itself puts before
    a text (auto), nothing (none), its beginning-of-sequence token (bos), or a text."""

    query_in: Literal["encoder", "decoder"] | None = None
    """Where an encoder-decoder LLM gets its query: decoder is the default."""


class LLMSource(LLMLoading):
    """The frozen LLM of a job."""

    name: str
    """The key of `llms`."""


class DistillerSettings(Settings):
    """The part of `protocol` that decides how a distiller is built."""

    projection: Literal["linear-tanh", "linear"]
    """What brings the distiller's width to the LLM's where they differ."""

    placeholder_position: Literal["after-demonstrations", "after-padding"]
    """Placeholders right after the demonstrations, or after their padding."""

    placeholder_initialisation: Literal["vocabulary", "normal"]
    """Placeholders start as the embeddings of random tokens, or as noise of their scale."""

    vector_base: Literal["none", "last-tokens"] = "none"
    """What each vector is added to: nothing, or the LLM's embedding of one of the demonstrations'
    last l tokens."""


class LLMDistiller(Settings):
    """The small language model that the distiller starts as."""

    path: PackagePath
    """Folder or hub name of the small LM that the distiller starts as; same tokenizer as the
    LLM."""

    part: Literal["encoder", "decoder"] | None = None
    """Of an encoder-decoder distiller: its encoder reads the demonstrations and the placeholders
    (encoder, the default), or its decoder reads the placeholders (decoder)."""

    layers: Blocks | None = None
    """Make it of these of the model's blocks alone, counted from 0; null is all. So an LLM without
    a smaller sibling can be distilled by a part of itself."""

    revision: Revision | None = None
    """Commit or tag on the hub."""

    precision: Literal["auto", "float32"] = "auto"
    """Of its matrix products; its weights are float32. auto is bfloat16 on GPUs that have it
    (autocast), float32 elsewhere, and lets training round float32 products there to TF32."""


class DistillerSource(DistillerSettings, LLMDistiller):
    """The distiller of an LLM: the small language model that it starts as, and how it is built."""

    local_files_only: bool = False
    """Never look on the network."""


class MethodSource(Settings):
    """A method and its own settings, which the method's file knows."""

    name: Text
    """The key of `methods`."""

    settings: dict[str, Any] = {}
    """The method's own settings; see `mend.methods`."""


class ScoringSettings(Settings):
    """The part of `protocol` that decides an option's score."""

    option_score: Literal["mean", "sum"]
    """An option's score is the mean or the sum of its tokens' log-probabilities."""


class RunSpec(Settings):
    """The LLM, the method and how both read."""

    llm: LLMSource
    """The frozen LLM."""

    method: MethodSource
    """The method."""

    distiller: DistillerSource | None = None
    """The distiller, if the method distils."""

    reading: ReadingSettings
    """How rows become tokens."""
