"""The floating-point operations of forward passes and of steps, from the sizes of models.

Matrix products are counted, two operations for each multiplication and addition: of each token with
every matrix of the layers, of queries with keys and of weights with values in attention (whole, as
if a causal mask hid nothing, but no further than a sliding window), and of the head where a token
is predicted. So counts PaLM (Chowdhery et al., 2022, appendix B). Backwards, frozen weights have
one product for each of the forward pass, trained weights and attention two. The scans of
state-space layers and of linear attention, small beside their matrices, are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from mend.models.contexts import Contexts, KeyValueContexts, LowRankContexts
from mend.models.frozen_llm import FrozenLLM
from mend.progress import logger

if TYPE_CHECKING:
    from mend.models.compressor import Compressor
    from mend.models.distiller import DistillerModel

#: How often weights and attention are computed: in a forward pass; that and back through what is
#: frozen; that and back through what is trained.
FORWARD, FROZEN, TRAINED = (1, 1), (2, 3), (3, 3)


@dataclass(frozen=True)
class Layers:
    """The layers that a row of tokens goes through.

    weights: elements of matrices that a token is multiplied with. attention: operations for a pair
    of a token and one that it attends to, of all layers of the same window, by window.
    """

    weights: float
    attention: Mapping[float, float]

    def operations(self, tokens: int, passes: tuple[int, int] = FORWARD, before: int = 0) -> float:
        """Return the operations of a row.

        passes: how often weights and attention are computed. before: positions that the row's
        tokens attend to besides, whose keys and values are there.
        """
        seen = before + tokens
        attended = sum(each * min(seen, window) for window, each in self.attention.items())
        return tokens * (passes[0] * 2 * self.weights + passes[1] * attended)


class DecoderOnly:
    """An LLM that reads its prefix, a context and a query in one row."""

    def __init__(self, llm: FrozenLLM) -> None:
        """Look up the sizes; raises ValueError for what has none that are known."""
        self.prefix, self.layers = len(llm.prefix), layers_of(llm.body)

    def operations(
        self, context: int, rows: Sequence[tuple[int, int]], passes: tuple[int, int]
    ) -> float:
        """Return the operations of rows after one context: (tokens read, tokens predicted)."""
        before = self.prefix + context
        # The last token is predicted, never read.
        return sum(self.layers.operations(before + x + y - 1, passes) for x, y in rows)

    def reading(self, anew: int, kept: int, query: int, answers: int) -> float:
        """Return the operations of one row: see `ReadingOperations`."""
        return self.layers.operations(anew + query + answers, before=kept)


class _Decoder:
    """The layers of a T5's decoder, which attend to an encoder's states besides."""

    def __init__(self, decoder: nn.Module) -> None:
        found = layers_of(decoder)
        cross = [block.layer[1].EncDecAttention for block in decoder.block]
        own, first = decoder.block[0].layer[0].SelfAttention, cross[0]
        self.keys = sum(elements(each.k, each.v) for each in cross)
        self.weights = found.weights - self.keys
        # Half of it over its own tokens, half over the encoder's.
        self.attention = found.attention[math.inf] / 2
        self.first_attention = self.attention / len(cross)
        self.unled = elements(own, first.q)

    def operations(self, tokens: int, encoded: int, passes: tuple[int, int]) -> float:
        """Return the operations of a row after so many encoded tokens."""
        products = 2 * (self.weights * tokens + self.keys * encoded)
        attention = self.attention * tokens * (tokens + encoded)
        found = passes[0] * products + passes[1] * attention
        if passes == FROZEN:
            # Before the first attention to the encoder nothing leads to what is trained.
            found -= 2 * self.unled * tokens
            found -= self.first_attention * tokens * (2 * tokens + encoded / 2)
        return found


class EncoderDecoder:
    """A T5, whose queries go to the decoder, or to the encoder."""

    def __init__(self, llm: FrozenLLM) -> None:
        """Look up the sizes; raises ValueError for what has none that are known."""
        self.prefix, self.query_in_decoder = len(llm.prefix), llm.predicts_query
        self.encoder, self.decoder = layers_of(llm.model.encoder), _Decoder(llm.model.decoder)

    def operations(
        self, context: int, rows: Sequence[tuple[int, int]], passes: tuple[int, int]
    ) -> float:
        """Return the operations of rows after one context: (tokens read, tokens predicted)."""
        encoded = max(1, self.prefix + context)
        if self.query_in_decoder:
            decoded = sum(self.decoder.operations(x + y, encoded, passes) for x, y in rows)
            return self.encoder.operations(encoded, passes) + decoded
        return sum(
            self.encoder.operations(encoded + x, passes)
            + self.decoder.operations(y, encoded + x, passes)
            for x, y in rows
        )

    def reading(self, anew: int, kept: int, query: int, answers: int) -> float:
        """Return the operations of one row: see `ReadingOperations`; nothing can be kept."""
        decoded, encoded = 1 + answers, max(1, anew)  # the start token comes first
        if self.query_in_decoder:
            decoded += query
        else:
            encoded = max(1, anew + query)
        found = self.encoder.operations(encoded) + self.decoder.operations(
            decoded, encoded, FORWARD
        )
        return math.nan if kept else found


def sizes_of(llm: FrozenLLM) -> DecoderOnly | EncoderDecoder:
    """Look up the sizes of an LLM; raises ValueError for what has none that are known."""
    return EncoderDecoder(llm) if llm.has_start_token else DecoderOnly(llm)


class ReadingOperations:
    """Counts what one reading of a saved context takes, with a query and its options after it.

    The LLM computes its layers at the positions that the context is read anew in, and at the
    tokens after it, which attend to those, and to what is kept as keys and values; low-rank weights
    multiply every token besides. Options are read as a tree: what comes before them once, and their
    last tokens never.

    Of an architecture whose sizes are not found that is told once, and counts are NaN.
    """

    def __init__(self, llm: FrozenLLM) -> None:
        """Look up the sizes."""
        self.prefix, self.llm = len(llm.prefix), None
        try:
            self.llm = sizes_of(llm)
            self.head = llm.model.get_output_embeddings().weight.numel()
        except Exception as error:  # whatever an architecture lacks, it is read all the same
            logger.warning("operations of reading will not be known: %s", error)

    def __call__(
        self, contexts: Contexts, number: int, query: int, options: Sequence[int]
    ) -> float:
        """Return the operations of reading one of some contexts.

        query: tokens of the query; options: tokens of each option, or of the one answer.
        """
        if self.llm is None:
            return math.nan
        anew = contexts.read_anew[number]
        kept = contexts.lengths[number] - anew
        anew += 0 if isinstance(contexts, KeyValueContexts) else self.prefix
        answers = sum(options) - len(options)
        found = self.llm.reading(anew, kept, query, answers) + 2 * self.head * sum(options)
        if isinstance(contexts, LowRankContexts):
            parts = [*contexts.down.values(), *contexts.up.values()]
            elements = sum(part[number].numel() for part in parts)
            found += 2 * elements * (anew + query + answers)
        return found


class DistillerSizes:
    """A distiller and its projection."""

    def __init__(self, distiller: DistillerModel) -> None:
        """Look up the sizes; raises ValueError for what has none that are known."""
        backbone = distiller.backbone
        self.prefix, self.length = len(distiller.prefix), distiller.length
        self.layers = layers_of(backbone.encoder if distiller.decodes else backbone)
        self.decoder = _Decoder(backbone.decoder) if distiller.decodes else None
        self.projection = Layers(elements(distiller.projection), {})

    def operations(self, demonstrations: int, passes: tuple[int, int] = FORWARD) -> float:
        """Return the operations of one row of demonstrations; passes: as of `Layers`."""
        read, found = self.prefix + demonstrations, 0.0
        if self.decoder:
            read = max(1, read)
            found += self.decoder.operations(self.length, read, passes)
        else:
            read += self.length
        found += self.layers.operations(read, passes)
        return found + self.projection.operations(self.length, passes)


class CompressorSizes:
    """An LLM's copy with adapters (`mend.models.compressor`)."""

    def __init__(self, compressor: Compressor) -> None:
        """Look up the sizes; raises ValueError for what has none that are known."""
        self.prefix, self.layers = len(compressor.llm_prefix), layers_of(compressor.body)
        self.body = compressor.body

    @cached_property
    def adapters(self) -> float:
        """Elements of the adapters' matrices, which a training alone needs."""
        return elements(*(part for name, part in self.body.named_modules() if _adapts(name)))

    def operations(self, rows: Sequence[int], passes: tuple[int, int] = FORWARD) -> float:
        """Return the operations of rows of so many tokens; passes: FORWARD, or TRAINED.

        The LLM's own weights, among those that are trained, are frozen.
        """
        trains = passes == TRAINED
        found = 0.0
        for tokens in rows:
            read = self.prefix + tokens
            found += self.layers.operations(read, FROZEN if trains else passes)
            if trains:
                found += 2 * self.adapters * read
        return found


def _adapts(name: str) -> bool:
    return name.rpartition(".")[2] in ("lora_A", "lora_B")


#: Sizes of models that are there: each context that is made asks for them.
_found: WeakKeyDictionary[nn.Module, Layers] = WeakKeyDictionary()


def layers_of(body: nn.Module) -> Layers:
    """Return the sizes of a model's layers; raises ValueError for what has none that are known."""
    if body not in _found:
        _found[body] = _layers_of(body)
    return _found[body]


def _layers_of(body: nn.Module) -> Layers:
    weights = elements(body, used=_used_experts(body.config))
    if not weights:
        raise ValueError(f"no matrices are known of a {body.config.model_type}")
    attention: Counter[float] = Counter()
    for part in filter(_attends, _parts(body)):
        each, window = _attention(part, body.config)
        attention[window] += each
    return Layers(weights, attention)


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and its parts, each as often as it is used."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _parts(child)


def elements(*modules: nn.Module, used: int | None = None) -> float:
    """Return how many elements of matrices a token is multiplied with.

    used: how many of the experts of a layer a token uses.
    """
    found = 0.0
    for part in (part for module in modules for part in _parts(module)):
        if isinstance(part, nn.Embedding) or "Norm" in type(part).__name__:
            continue
        convolves = isinstance(part, nn.modules.conv._ConvNd)
        for name, value in part.named_parameters(recurse=False):
            if name == "weight" and (convolves or value.dim() == 2):
                found += value.numel()
            elif value.dim() == 3:  # an expert's matrix after the other
                if not used:
                    raise ValueError(f"how many experts a token uses of a {type(part).__name__}")
                found += value.numel() / len(value) * used
    return found


def _used_experts(config: Any) -> int | None:
    names = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k", "moe_k")
    return next(filter(None, (getattr(config, name, None) for name in names)), None)


def _attends(module: nn.Module) -> bool:
    """Return whether a module is a layer's attention, with a softmax, and not what contains it."""
    return _is_named_attention(module) and not any(
        _is_named_attention(inner) for part in module.children() for inner in part.modules()
    )


def _is_named_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    others = ("Lightning", "Linear", "Delta")
    return "Attention" in name and not any(other in name for other in others)


def _attention(module: nn.Module, config: Any) -> tuple[float, float]:
    """Return the operations of a layer's attention for each pair of tokens, and its window."""
    heads = config.num_attention_heads
    key = _first(module, config, "qk_head_dim", "head_dim") or config.hidden_size // heads
    value = _first(module, config, "v_head_dim") or key
    return 2.0 * heads * (key + value), _window(module, config) or math.inf


def _window(module: nn.Module, config: Any) -> int | None:
    """Return how many tokens a layer's tokens attend to at most; None if it has no limit."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if not kinds:
        return _first(config, "sliding_window")
    layer = getattr(module, "layer_idx", None)
    layer = module.layer_id if layer is None else layer
    names = {
        "sliding_attention": "sliding_window",
        "chunked_attention": "attention_chunk_size",
        "local": "window_size",
    }
    return _first(config, names[kinds[layer]]) if kinds[layer] in names else None


def _first(*places: Any) -> Any:
    """Return the first of the named attributes that is something, of the things before them."""
    names = [place for place in places if isinstance(place, str)]
    things = [place for place in places if not isinstance(place, str)]
    found = (getattr(thing, name, None) for name in names for thing in things)
    return next(filter(None, found), None)
