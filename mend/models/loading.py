"""Loading an LLM that the configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mend.configuration.specs.run import LLMSource
from mend.data.pretrained import Pretrained
from mend.errors import UserError
from mend.models.decoder_only import DecoderOnlyLLM
from mend.models.devices import choose_device
from mend.models.encoder_decoder import EncoderDecoderLLM, EncoderQueryLLM
from mend.models.fingerprint import fingerprint, identity
from mend.models.frozen_llm import FrozenLLM
from mend.models.pretrained import check_vocabulary, load_model
from mend.models.verification import has_weights, verify_llm
from mend.progress import logger


def frozen_llm(
    model: torch.nn.Module,
    tokenizer: Any,
    dropout: bool = False,
    query_in: str | None = None,
    prefix: Sequence[int] = (),
) -> FrozenLLM:
    """Return a model behind the face that the rest of the library knows.

    query_in: where an encoder-decoder's queries go, "decoder" (the default) or "encoder"
    (`llms.*.query_in`). prefix: token ids before every context (`llms.*.prefix`).
    Raises UserError if query_in is given for a decoder-only LLM, or if the library would not
    compute what the model does (`mend.models.verification`).
    """
    if model.config.is_encoder_decoder:
        face = EncoderQueryLLM if query_in == "encoder" else EncoderDecoderLLM
    elif query_in:
        raise UserError(
            f"llms: query_in: {query_in} is for encoder-decoder LLMs; leave it out for "
            f"{model.config.model_type}"
        )
    else:
        face = DecoderOnlyLLM
    llm = face(model, tokenizer, dropout, prefix)
    if has_weights(model):
        verify_llm(llm)
    return llm


def prefix_tokens(tokenizer: Any, prefix: str) -> list[int]:
    """Return the token ids that stand before every context.

    prefix: `auto`, what the tokenizer itself puts before a text; `none`; `bos`, its token of that
    kind; or a text. Raises UserError for a `bos` that the tokenizer has not, and an empty text.
    """
    if prefix == "none":
        return []
    if prefix == "bos":
        if tokenizer.bos_token_id is None:
            raise UserError("llms: prefix: bos, but the tokenizer has no such token; use none")
        return [tokenizer.bos_token_id]
    if prefix == "auto":
        plain, own = (
            tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True)
        )
        start = next((n for n in range(len(own)) if own[n : n + len(plain)] == plain), 0)
        return list(own[:start])
    ids = list(tokenizer(prefix, add_special_tokens=False)["input_ids"])
    if not ids:
        raise UserError(f"llms: prefix: {prefix!r} has no tokens; use none for no prefix")
    return ids


def load_llm(
    source: LLMSource,
    dropout: bool = False,
    device: torch.device | None = None,
    **options: Any,
) -> FrozenLLM:
    """Load an LLM.

    dropout: leave its dropout on. device: where to; a free GPU by default, which is then this
    process's. options: what `from_pretrained` of transformers takes; with device_map or
    quantization_config it decides where the parts go.
    Raises UserError if it cannot be loaded.
    """
    device = device or choose_device()
    options = {"dtype": getattr(torch, source.dtype), **options}
    if source.int8:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        options["device_map"] = {"": device}
    where = Pretrained(source.path, source.revision, source.local_files_only)
    config, tokenizer = where.config(), where.tokenizer()
    model_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = load_model(where, model_class, **options)
    check_vocabulary(model, tokenizer, where)
    prefix = prefix_tokens(tokenizer, source.prefix)
    known = {}
    if source.sharded:
        from mend.models.sharding import shard_blocks

        # A process has a part of the weights alone afterwards.
        known["fingerprint"] = fingerprint(model, tokenizer, source.query_in != "encoder", prefix)
        known["identity"] = identity(model, tokenizer)
        shard_blocks(model, device)
    if not options.keys() & {"device_map", "quantization_config"}:
        model = model.to(device)
    if prefix:
        logger.info("every context begins with %s", tokenizer.convert_ids_to_tokens(prefix))
    llm = frozen_llm(model, tokenizer, dropout, source.query_in, prefix)
    vars(llm).update(known)
    llm.source = source
    return llm
