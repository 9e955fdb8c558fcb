"""Loading an LLM that the configuration names."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from mend.configuration.specs.run import LLMSource
from mend.errors import UserError
from mend.models.decoder_only import DecoderOnlyLLM
from mend.models.devices import choose_device
from mend.models.encoder_decoder import EncoderDecoderLLM, EncoderQueryLLM
from mend.models.frozen_llm import FrozenLLM


def frozen_llm(
    model: torch.nn.Module, tokenizer: Any, dropout: bool = False, query_in: str | None = None
) -> FrozenLLM:
    """Return a model behind the face that the rest of the library knows.

    query_in: where an encoder-decoder's queries go, "decoder" (the default) or "encoder"
    (`llms.*.query_in`). Raises UserError if it is given for a decoder-only LLM.
    """
    if model.config.is_encoder_decoder:
        face = EncoderQueryLLM if query_in == "encoder" else EncoderDecoderLLM
        return face(model, tokenizer, dropout)
    if query_in:
        raise UserError(
            f"llms: query_in: {query_in} is for encoder-decoder LLMs; leave it out for "
            f"{model.config.model_type}"
        )
    return DecoderOnlyLLM(model, tokenizer, dropout)


def load_llm(source: LLMSource, dropout: bool = False) -> FrozenLLM:
    """Load an LLM; `dropout` leaves its dropout on. Raises UserError if it cannot be loaded."""
    device = choose_device()
    options: dict = {"dtype": getattr(torch, source.dtype)}
    if source.int8:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        options["device_map"] = {"": device}
    where = {"revision": source.revision, "local_files_only": source.local_files_only}
    try:
        config = AutoConfig.from_pretrained(source.path, **where)
        tokenizer = AutoTokenizer.from_pretrained(source.path, **where)
        model_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = model_class.from_pretrained(source.path, **where, **options)
    except OSError as error:
        raise UserError(f"llms: cannot load {source.path!r}: {error}") from error
    if source.sharded:
        from mend.models.sharding import shard_blocks

        shard_blocks(model, device)
    if not source.int8:
        model = model.to(device)
    return frozen_llm(model, tokenizer, dropout, source.query_in)
