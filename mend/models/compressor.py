"""The LLM itself as the compressor: a copy with low-rank adapters (LoRA), of PEFT.

The copy shares the frozen LLM's weights, so that it takes no memory but that of what is trained:
the adapters, and l placeholders, which stand after the demonstrations as a distiller's do.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mend.configuration.specs.reading import ReadingSettings
from mend.errors import UserError
from mend.models.causal import causal_key_values, causal_states
from mend.models.contexts import KeyValueContexts
from mend.models.devices import supports_bfloat16
from mend.models.encoder_decoder import encoder_states
from mend.models.frozen_llm import FrozenLLM
from mend.models.padding import indices
from mend.models.sharding import is_sharded


class Compressor(nn.Module):
    """A copy of an LLM (of an encoder-decoder its encoder) with LoRA, and l placeholders.

    Adapters are on all linear layers, scaled by 2 (alpha = 2 rank); an untrained compressor is the
    LLM itself.
    """

    def __init__(self, llm: FrozenLLM, length: int, rank: int) -> None:
        """Make one; length: l, rank: of the adapters.

        Raises UserError for an LLM that is sharded, whose weights are elsewhere.
        """
        super().__init__()
        if is_sharded(llm.model):
            raise UserError("llms: sharded: a copy of the LLM would be sharded, too; leave it out")
        self.llm_prefix, self.max_positions = list(llm.prefix), llm.positions
        self.is_encoder = bool(llm.model.config.is_encoder_decoder)
        self.body = _with_adapters(llm.model.encoder if self.is_encoder else llm.body, rank)
        mixed = supports_bfloat16(llm.device)
        #: Of matrix products, for what is said of a training's speed.
        self.precision = torch.bfloat16 if mixed else llm.dtype
        words = torch.randint(llm.vocabulary, (length,), device="cpu")
        with torch.no_grad():
            start = llm.embedding(words.to(llm.device)).clone().float()
        self.placeholders = nn.Parameter(start)

    @property
    def length(self) -> int:
        """l, the number of placeholders."""
        return self.placeholders.shape[0]

    def room(self, before: int = 0) -> int:
        """Return how many tokens fit between `before` vectors and the placeholders."""
        return self.max_positions - self.length - len(self.llm_prefix) - before

    def longest_context(self, reading: ReadingSettings) -> int:
        """Return how many tokens of demonstrations are read at most."""
        return max(0, min(reading.longest_context.distiller, self.room()))

    def vectors(
        self, texts: Sequence[Sequence[int]], before: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return the last hidden states of the placeholders, (texts, l, width), in float32.

        before: vectors that each text comes after, (n, width) each.
        """
        rows, places = self._rows(texts, before)
        lengths = [len(row) for row in rows]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        with self._products():
            if self.is_encoder:
                states, _ = encoder_states(self.body, padded, lengths)
            else:
                states = causal_states(self.body, padded, lengths, self.max_positions)
        return states[_numbers(places), places].float()

    def key_values(self, llm: FrozenLLM, texts: Sequence[Sequence[int]]) -> KeyValueContexts:
        """Return the placeholders' keys and values in all layers, after the LLM's own prefix.

        Positions go on after the text's and the placeholders' own.
        Raises UserError for an LLM that cannot read keys and values.
        """
        llm.check_key_values()
        rows, places = self._rows(texts, None)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        with self._products():
            states, cache = causal_key_values(self.body, padded, self.max_positions)
        numbers, prefix, kept = _numbers(places), len(llm.prefix), None
        if prefix:
            with torch.no_grad():
                kept = llm.key_values(llm.token_context([[]]))
        layers: dict[str, list[Tensor]] = {"keys": [], "values": []}
        for name, found in layers.items():
            for number, layer in enumerate(cache.layers):
                # Indexing brings the places in front of the heads.
                own = getattr(layer, name)[numbers, :, places].transpose(1, 2).to(llm.dtype)
                if kept is not None:
                    before = getattr(kept, name)[number].expand(len(rows), -1, -1, -1)
                    own = torch.cat([before, own], dim=2)
                found.append(own)
        return KeyValueContexts(
            layers["keys"],
            layers["values"],
            [prefix + self.length] * len(rows),
            [len(row) for row in rows],
            prefix,
            states[numbers, places][:, -1:].to(llm.dtype),
        )

    def _products(self):
        if self.precision == self.placeholders.dtype or self.placeholders.device.type != "cuda":
            return nullcontext()
        return torch.autocast("cuda", self.precision)

    def _rows(
        self, texts: Sequence[Sequence[int]], before: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return each row's embeddings, (n, width), and where its placeholders are, (rows, l)."""
        embedding = self.body.get_input_embeddings()
        device, dtype = self.placeholders.device, embedding.weight.dtype
        end, rows, places = self.placeholders.to(dtype), [], []
        for number, text in enumerate(texts):
            prefix, words = (
                embedding(indices(part, device)).to(dtype) for part in (self.llm_prefix, text)
            )
            vectors = [] if before is None else [before[number].to(dtype)]
            rows.append(torch.cat([prefix, *vectors, words, end]))
            start = len(rows[-1]) - self.length
            places.append(list(range(start, start + self.length)))
        return rows, indices(places, device)


def _numbers(places: Tensor) -> Tensor:
    return torch.arange(len(places), device=places.device)[:, None]


def _with_adapters(body: nn.Module, rank: int) -> nn.Module:
    """Return a copy of a model with LoRA on its linear layers, whose other weights are shared."""
    shared = {id(one): one for one in (*body.parameters(), *body.buffers())}
    copied = copy.deepcopy(body, shared)
    settings = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in copied.modules()),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
            inject_adapter_in_model(settings, copied)
    except ValueError as error:  # it finds no layer that it knows
        raise UserError(
            f"llms: a {body.config.model_type} has no layers that LoRA can be put on ({error})"
        ) from error
    for name, parameter in copied.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return copied
