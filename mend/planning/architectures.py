"""Sizes of language models, and what one forward pass costs, from their configurations alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mend.configuration.files import read_small_text
from mend.configuration.schema import ConfigurationValues
from mend.errors import UserError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
KNOWN = Path(__file__).with_name("architectures.yaml")


@dataclass(frozen=True)
class Operations:
    """Floating-point operations: of weights, of attention (no weights), of the output head."""

    weights: float = 0.0
    attention: float = 0.0
    head: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        """Add part by part."""
        return Operations(
            self.weights + other.weights, self.attention + other.attention, self.head + other.head
        )

    @property
    def forward(self) -> float:
        """Of a forward pass."""
        return self.weights + self.attention + self.head

    @property
    def backward(self) -> float:
        """Through frozen weights: one product for each of the forward pass, two in attention."""
        return self.weights + 2 * self.attention + self.head

    @property
    def trained_backward(self) -> float:
        """Of trained weights: their gradients are a second product."""
        return 2 * self.forward


@dataclass(frozen=True)
class Architecture:
    """A transformer's sizes.

    layers: of the decoder, or of the encoder of an encoder-decoder, whose decoder has
    `decoder_layers`. attention: heads times their width. key_value: the same of keys and values.
    """

    layers: int
    width: int
    attention: int
    key_value: int
    feed_forward: int
    gated: bool
    vocabulary: int
    positions: int = 0
    decoder_layers: int = 0
    tied: bool = True
    published: str = "float32"

    @property
    def block(self) -> int:
        """Weights of a layer's matrices, without attention to an encoder."""
        projections = 2 * self.width * (self.attention + self.key_value)
        return projections + (3 if self.gated else 2) * self.width * self.feed_forward

    @property
    def adapted(self) -> int:
        """Inputs and outputs of the linear layers of all blocks together, without a decoder's."""
        projections = 4 * self.width + 2 * (self.attention + self.key_value)
        each = projections + (3 if self.gated else 2) * (self.width + self.feed_forward)
        return self.layers * each

    @property
    def cross(self) -> int:
        """Weights of a decoder layer's attention to the encoder."""
        return 2 * self.width * (self.attention + self.key_value)

    @property
    def encoder_parameters(self) -> int:
        """Parameters without a decoder and a head, biases and normalisation left out."""
        return self.width * (self.vocabulary + self.positions) + self.layers * self.block

    @property
    def parameters(self) -> int:
        """All parameters, biases and normalisation left out."""
        head = 0 if self.tied else self.width * self.vocabulary
        return self.encoder_parameters + self.decoder_layers * (self.block + self.cross) + head

    @property
    def serial_layers(self) -> int:
        """Layers of encoder and decoder: what a pass waits for at least."""
        return self.layers + self.decoder_layers

    def prefill(self, tokens: float) -> Operations:
        """Return what a forward pass over a context of so many tokens costs."""
        attention = 4 * self.layers * self.attention * tokens * tokens
        return Operations(2 * tokens * self.layers * self.block, attention)

    def extend(
        self, context: float, tokens: float, predicted: float, sharing: float = 1
    ) -> Operations:
        """Return what tokens after a context cost, `predicted` of them with logits.

        sharing: how many queries read the same context, whose keys and values an encoder-decoder
        model makes once for all of them.
        """
        head = 2 * predicted * self.width * self.vocabulary
        if not self.decoder_layers:
            weights = 2 * tokens * self.layers * self.block
            attention = 4 * self.layers * self.attention * tokens * (context + tokens)
            return Operations(weights, attention, head)
        queries = self.block + 2 * self.width * self.attention  # keys and values: of the context
        keys = 2 * self.width * self.key_value
        weights = 2 * self.decoder_layers * (tokens * queries + context * keys / sharing)
        attention = 4 * self.decoder_layers * self.attention * tokens * (context + tokens)
        return Operations(weights, attention, head)

    def cache_bytes(self, context: float, after: float, size: int) -> float:
        """Return the keys and values that are kept of a context and tokens after it."""
        if not self.decoder_layers:
            return 2 * self.layers * self.key_value * (context + after) * size
        cached = 2 * self.decoder_layers * self.key_value * (context + after)
        return (cached + self.width * context) * size


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the sizes that a config.json holds; raises KeyError for one that lacks them."""

    def first(*names: str, default: Any = None) -> Any:
        for name in names:
            if config.get(name) is not None:
                return config[name]
        if default is None:
            raise KeyError(names[0])
        return default

    width = first("n_embd", "d_model", "hidden_size")
    heads = first("n_head", "num_heads", "num_attention_heads")
    head = first("d_kv", "head_dim", default=width // heads)
    kind = config.get("model_type", "")
    is_t5 = "relative_attention_num_buckets" in config or kind.endswith("t5")
    layers = first("n_layer", "num_layers", "num_hidden_layers")
    learned_positions = kind in ("gpt2", "opt")
    tied = first("tie_word_embeddings", default=learned_positions or is_t5 or "absent")
    return Architecture(
        layers=layers,
        width=width,
        attention=heads * head,
        key_value=first("num_key_value_heads", default=heads) * head,
        feed_forward=first("n_inner", "ffn_dim", "d_ff", "intermediate_size", default=4 * width),
        gated="gated" in config.get("feed_forward_proj", "") or "num_key_value_heads" in config,
        vocabulary=config["vocab_size"],
        positions=first("n_positions", "max_position_embeddings") if learned_positions else 0,
        decoder_layers=(config.get("num_decoder_layers") or layers) if is_t5 else 0,
        tied=tied is True,
        published=config.get("published") or config.get("dtype") or "float32",
    )


def find_architecture(values: ConfigurationValues, key: str, path: str) -> Architecture:
    """Return the sizes of a model of a configuration, without asking the network.

    values: the configuration's; key: of the model, for messages; path: a folder or a hub name.
    Raises UserError if they are nowhere.
    """
    made = f"{values.results.rstrip('/')}/local-models/"
    if path.startswith(made):
        local = values.local_models
        sizes = local.llm if path.removeprefix(made) == "gpt2" else local.distiller
        config = {
            "model_type": "gpt2",
            "n_embd": sizes.width,
            "n_layer": sizes.layers,
            "n_head": sizes.heads,
            "n_positions": local.positions,
            "vocab_size": local.vocabulary,
        }
        return architecture(config)
    converted = f"{values.results.rstrip('/')}/gguf-models/"
    if path.startswith(converted) and not Path(path).is_dir():
        path = Path(values.gguf_models[path.removeprefix(converted)].files[0]).name
    try:
        return architecture(_config(path))
    except Exception as error:  # a config.json may hold anything
        raise UserError(
            f"{key}: the sizes of {path} are not known without a download "
            f"({type(error).__name__}: {error}); put its config.json into a folder, or add it to "
            f"{KNOWN.name}"
        ) from None


def _config(path: str) -> Mapping[str, Any]:
    folder = Path(path)
    if folder.is_dir():
        return json.loads(read_small_text(folder / "config.json"))
    known = yaml.safe_load(KNOWN.read_text(encoding="utf-8"))
    if path in known:
        return known[path]
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(path, "config.json")
    if not isinstance(cached, str):
        raise FileNotFoundError(f"it is neither in {KNOWN.name} nor downloaded")
    return json.loads(read_small_text(cached))
