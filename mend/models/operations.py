"""The floating-point operations that a training step needs, from the sizes of its models.

Matrix products are counted, two operations for each multiplication and addition: of each token with
every matrix of the layers, of queries with keys and of weights with values in attention (whole, as
if a causal mask hid nothing, but no further than a sliding window), and of the head where a token
is predicted. So counts PaLM (Chowdhery et al., 2022, appendix B). Rows have their own lengths:
padding is not needed. Backwards, frozen weights have one product for each of the forward pass,
trained weights and attention two. The scans of state-space layers and of linear attention, small
beside their matrices, are left out.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mend.configuration.specs.training import Losses, LossSettings
from mend.data.examples import Example
from mend.models.frozen_llm import FrozenLLM
from mend.progress import logger

if TYPE_CHECKING:
    from mend.methods.built import BuiltMethod
    from mend.models.distiller import DistillerModel

#: How often weights and attention are computed: in a forward pass; that and back through what is
#: frozen; that and back through what is trained.
FORWARD, FROZEN, TRAINED = (1, 1), (2, 3), (3, 3)


class TrainingOperations:
    """Counts what the steps of a training need; sizes are looked up once.

    Of an architecture whose sizes are not found, and of a method that trains other matrices than a
    distiller's or does not say how many vectors it makes, that is told once, and the count is NaN.
    """

    def __init__(
        self,
        llm: FrozenLLM,
        method: BuiltMethod,
        losses: Losses,
        stage: str,
        objective: LossSettings,
    ) -> None:
        """Look up the sizes; losses, stage, objective: as of `mend.training.losses`."""
        self.losses, self.objective = losses, objective
        self.finetunes = stage == "finetune"
        self.whole = llm.predicts_query or not self.finetunes
        self.known = False
        try:
            self.vectors = _vectors(method)
            self.distillers = [_DistillerSizes(each) for each in _distillers(method)]
            self.llm = _EncoderDecoder(llm) if llm.has_start_token else _DecoderOnly(llm)
            self.head = llm.model.get_output_embeddings().weight.numel()
            self.known = True
        except Exception as error:  # whatever an architecture lacks, it is trained all the same
            logger.warning("neither operations nor utilisation will be known: %s", error)

    def __call__(self, examples: Iterable[Example]) -> float:
        """Return the operations of a step over examples; NaN if they are not known."""
        return sum(map(self._example, examples)) if self.known else math.nan

    def _example(self, example: Example) -> float:
        found = sum(each.operations(len(example.demonstrations)) for each in self.distillers)
        lengths = [(len(x), len(y)) for x, y in example.queries]
        rows = [(0, x + y) if self.whole else (x, y) for x, y in lengths]
        if self.losses.choice:
            for (x, y), others in zip(lengths, example.others, strict=True):
                options = [y, *map(len, others)]
                found += self.llm.operations(self.vectors, [(x, each) for each in options], FROZEN)
                found += 4 * self.head * sum(options)
        found += self.llm.operations(self.vectors, rows, FROZEN)
        if self.losses.distill and example.teacher_states is None:
            found += self.llm.operations(len(example.teacher_demonstrations), rows, FORWARD)
        for x, y in lengths:
            found += 2 * self.head * self._with_logits(x if self.whole else 0, y)
        return found

    def _with_logits(self, inputs: int, answer: int) -> int:
        """Return how often a query's tokens have logits: forwards, backwards and the teacher's."""
        losses, skipped = self.losses, not self.objective.distill_first_token
        of_answer = self.finetunes and self.objective.distill_in_finetuning == "input-and-output"
        taught_inputs = max(0, inputs - skipped) if losses.distill else 0
        taught_answer = answer - (skipped and not inputs) if losses.distill and of_answer else 0
        student = inputs if losses.clm else taught_inputs
        student += answer if losses.pred else taught_answer
        return 2 * student + taught_inputs + taught_answer


@dataclass(frozen=True)
class Layers:
    """The layers that a row of tokens goes through.

    weights: elements of matrices that a token is multiplied with. attention: operations for a pair
    of a token and one that it attends to, of all layers of the same window, by window.
    """

    weights: float
    attention: Mapping[float, float]

    def operations(self, tokens: int, passes: tuple[int, int] = FORWARD) -> float:
        """Return the operations of a row; passes: how often weights and attention are computed."""
        attended = sum(each * min(tokens, window) for window, each in self.attention.items())
        return tokens * (passes[0] * 2 * self.weights + passes[1] * attended)


class _DecoderOnly:
    """An LLM that reads its prefix, a context and a query in one row."""

    def __init__(self, llm: FrozenLLM) -> None:
        self.prefix, self.layers = len(llm.prefix), layers_of(llm.body)

    def operations(
        self, context: int, rows: Sequence[tuple[int, int]], passes: tuple[int, int]
    ) -> float:
        """Return the operations of rows after one context: (tokens read, tokens predicted)."""
        before = self.prefix + context
        # The last token is predicted, never read.
        return sum(self.layers.operations(before + x + y - 1, passes) for x, y in rows)


class _Decoder:
    """The layers of a T5's decoder, which attend to an encoder's states besides."""

    def __init__(self, decoder: nn.Module) -> None:
        found = layers_of(decoder)
        cross = [block.layer[1].EncDecAttention for block in decoder.block]
        own, first = decoder.block[0].layer[0].SelfAttention, cross[0]
        self.keys = sum(_elements(each.k, each.v) for each in cross)
        self.weights = found.weights - self.keys
        # Half of it over its own tokens, half over the encoder's.
        self.attention = found.attention[math.inf] / 2
        self.first_attention = self.attention / len(cross)
        self.unled = _elements(own, first.q)

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


class _EncoderDecoder:
    """A T5, whose queries go to the decoder, or to the encoder."""

    def __init__(self, llm: FrozenLLM) -> None:
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


class _DistillerSizes:
    """A distiller, forwards and backwards."""

    def __init__(self, distiller: DistillerModel) -> None:
        backbone = distiller.backbone
        self.prefix, self.length = len(distiller.prefix), distiller.length
        self.layers = layers_of(backbone.encoder if distiller.decodes else backbone)
        self.decoder = _Decoder(backbone.decoder) if distiller.decodes else None
        self.projection = Layers(_elements(distiller.projection), {})

    def operations(self, demonstrations: int) -> float:
        """Return the operations of one row of demonstrations."""
        read, found = self.prefix + demonstrations, 0.0
        if self.decoder:
            read = max(1, read)
            found += self.decoder.operations(self.length, read, TRAINED)
        else:
            read += self.length
        found += self.layers.operations(read, TRAINED)
        return found + self.projection.operations(self.length, TRAINED)


def layers_of(body: nn.Module) -> Layers:
    """Return the sizes of a model's layers; raises ValueError for what has none that are known."""
    weights = _elements(body, used=_used_experts(body.config))
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


def _elements(*modules: nn.Module, used: int | None = None) -> float:
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


def _vectors(method: BuiltMethod) -> int:
    if method.vectors is None:
        raise ValueError(f"{method.name} does not say how many vectors it makes (`length`)")
    return method.vectors


def _distillers(method: BuiltMethod) -> list[DistillerModel]:
    # By what it has: trainings without a distiller need not know the class.
    found = [part for part in method.children() if hasattr(part, "placeholders")]
    if any(_elements(part) for part in method.children() if part not in found):
        raise ValueError(f"{method.name} trains matrices besides those of a distiller")
    return found


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of large matrix products, the best of several.

    On a processor with as many threads as PyTorch has now, and in a quarter of a second. A product
    of n x n matrices is 2 n^3 operations. PyTorch's random state is left as it is.
    """
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 1024
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)
    )
    best, began = math.inf, time.perf_counter()
    for _ in range(20):
        before = _now(device)
        left @ right
        best = min(best, _now(device) - before)
        if not on_gpu and time.perf_counter() - began > 0.25:
            break
    return 2 * size**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
