"""Generating text after contexts, by the `generate` of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from mend.errors import UserError, first_line
from mend.models.changes import changed
from mend.models.contexts import Changes, Contexts, KeyValueContexts, TokenContexts
from mend.models.decoder_only import DecoderOnlyLLM
from mend.models.encoder_decoder import EncoderDecoderLLM, EncoderQueryLLM
from mend.models.frozen_llm import FrozenLLM
from mend.models.padding import pad_left, to_device

#: How many queries are generated after at once, which memory may lower.
AT_ONCE = 32
#: New tokens if nothing else is asked for, as in transformers.
NEW_TOKENS = 20
#: What the context and the query decide, and what would return something else than tokens.
_OURS = ("inputs", "input_ids", "inputs_embeds", "attention_mask", "past_key_values")
_OURS += ("decoder_input_ids", "decoder_attention_mask", "encoder_outputs", "tokenizer")
_OURS += ("return_dict_in_generate",)


@torch.no_grad()
def generate(
    llm: FrozenLLM,
    contexts: Contexts,
    owner: Sequence[int],
    queries: Sequence[Sequence[int]],
    batch_size: int = AT_ONCE,
    **options: Any,
) -> list[list[int]]:
    """Return the tokens that the LLM writes after each query, without the token that ends a text.

    owner: whose context each query comes after. queries: token ids. options: whatever the model's
    own `generate` takes, such as max_new_tokens (by default 20), do_sample, stop_strings, streamer
    (for one query alone); the model's generation_config holds for the rest. With
    num_return_sequences there are so many rows a query.
    The prompt is given as vectors, so what looks at its tokens (a repetition penalty, say) sees the
    new ones alone. Batches are halved where memory runs out.
    Raises UserError for an option that a context decides, for what `generate` refuses, and if
    context, query and new tokens exceed the LLM's positions.
    """
    if getattr(options.get("generation_config"), "max_new_tokens", None) is None:
        options.setdefault("max_new_tokens", NEW_TOKENS)
    _check(llm, contexts, owner, queries, options)
    options = {**options, "pad_token_id": _padding(llm, options), "tokenizer": llm.tokenizer}
    was_training = llm.model.training
    llm.model.eval()
    found: list[list[int]] = []
    try:
        start = 0
        while start < len(queries):
            part = slice(start, start + batch_size)
            try:
                found += _generate(llm, contexts, owner[part], queries[part], options)
                start += batch_size
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise UserError(
                        "memory ran out while text was generated after one query; choose a smaller "
                        "dtype for the LLM, fewer new tokens or a shorter context"
                    ) from None
                batch_size //= 2
    finally:
        llm.model.train(was_training)
    return found


def _check(
    llm: FrozenLLM,
    contexts: Contexts,
    owner: Sequence[int],
    queries: Sequence[Sequence[int]],
    options: dict[str, Any],
) -> None:
    if ours := sorted(options.keys() & set(_OURS)):
        raise UserError(
            f"generate: {ours[0]} is decided by the context and the queries; leave it out"
        )
    if options.get("streamer") is not None and len(queries) != 1:
        raise UserError(f"generate: a streamer is for one query, and there are {len(queries)}")
    if isinstance(contexts, KeyValueContexts) and not all(map(len, queries)):
        raise UserError("generate: an empty query after keys and values; give at least one token")
    configuration = options.get("generation_config")
    new = options.get("max_new_tokens", getattr(configuration, "max_new_tokens", None))
    if type(new) is not int or new < 1:
        raise UserError(f"generate: max_new_tokens is {new!r}; it is a whole number of at least 1")
    for number, query in zip(owner, queries, strict=True):
        if not (contexts.lengths[number] or query or llm.prefix or llm.has_start_token):
            raise UserError(
                "generate: nothing comes before the first new token: an empty query after an empty "
                "context; give a query, or load the LLM with prefix='bos'"
            )
        read = contexts.spans[number], len(query)
        if sum(read) + new > llm.max_positions:
            raise UserError(
                f"generate: a context of {read[0]} positions, a query of {read[1]} tokens and "
                f"{new} new ones do not fit the {llm.max_positions} that the LLM reads; lower "
                "max_new_tokens, or shorten the context or the query"
            )


def _ends(llm: FrozenLLM, options: dict[str, Any]) -> list[int]:
    """Return the tokens that end a text."""
    configuration = options.get("generation_config") or llm.model.generation_config
    ends = options.get("eos_token_id", configuration.eos_token_id)
    if ends is None:
        ends = getattr(llm.tokenizer, "eos_token_id", None)
    return [] if ends is None else list(ends) if isinstance(ends, list | tuple) else [int(ends)]


def _padding(llm: FrozenLLM, options: dict[str, Any]) -> int:
    """Return the token that rows which have ended are filled up with."""
    configuration = options.get("generation_config") or llm.model.generation_config
    known = [options.get("pad_token_id"), configuration.pad_token_id, *_ends(llm, options), 0]
    size = llm.embedding.weight.shape[0]
    return next(token for token in known if token is not None and 0 <= token < size)


def _generate(
    llm: FrozenLLM,
    contexts: Contexts,
    owner: Sequence[int],
    queries: Sequence[Sequence[int]],
    options: dict[str, Any],
) -> list[list[int]]:
    changes = nullcontext()
    if isinstance(contexts, Changes):
        last = [len(llm.prefix) + max(map(len, queries)) - 1] * len(queries)  # padded on the left
        changes = changed(llm.model, llm.body, contexts, owner, last)
        contexts = TokenContexts([[]] * len(contexts.lengths))
    inputs, width = _inputs(llm, contexts, owner, queries)
    stops = options.get("stop_strings") or []
    stops = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop]
    criteria = StoppingCriteriaList(options.get("stopping_criteria") or ())
    if stops:
        criteria.append(StopTexts(llm.tokenizer, stops, width))
    options = {**options, "stop_strings": None, "stopping_criteria": criteria}
    try:
        with changes:
            sequences = llm.model.generate(**inputs, **options)
    except (ValueError, TypeError, NotImplementedError) as error:  # an option that it refuses
        raise UserError(f"generate: {first_line(error)}") from error
    ends, padding = _ends(llm, options), options["pad_token_id"]
    return [_written(row, ends, padding) for row in sequences[:, width:].tolist()]


def _written(row: list[int], ends: Sequence[int], padding: int) -> list[int]:
    """Return a row without the token that ends it, and what it is filled up with."""
    row = row[: next((place for place, token in enumerate(row) if token in ends), len(row))]
    while row and row[-1] == padding:
        row.pop()
    return row


class StopTexts(StoppingCriteria):
    """Ends a row where its new text has one of some texts in it.

    transformers' own `stop_strings` fails with some tokenizers.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], start: int) -> None:
        """Look for texts, none of them empty, from the token number `start` on."""
        self.tokenizer, self.texts, self.start = tokenizer, texts, start
        # Tokens are at least a letter long, but for parts of one and for marks.
        self.looked_at = 8 + max(map(len, texts))

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return which rows have ended."""
        new = input_ids[:, max(self.start, input_ids.shape[1] - self.looked_at) :].tolist()
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=False)
        done = [any(stop in text for stop in self.texts) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def _inputs(
    llm: FrozenLLM,
    contexts: Contexts,
    owner: Sequence[int],
    queries: Sequence[Sequence[int]],
) -> tuple[dict[str, Any], int]:
    """Return what the model is given, and how many tokens of the result are not new."""
    if isinstance(contexts, KeyValueContexts):
        return _after_key_values(llm, contexts.select(owner), queries)
    if not isinstance(llm, EncoderDecoderLLM):
        rows = llm.embeddings(contexts, owner, queries)
        lengths = [len(row) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
        return {"inputs_embeds": padded, "attention_mask": _mask(lengths, padded, left=True)}, 0
    texts = [[]] * len(queries)
    if isinstance(llm, EncoderQueryLLM):
        texts, queries = queries, texts
    states, lengths = llm.encoded(contexts, owner, texts)
    start = llm.model.config.decoder_start_token_id
    tokens, mask = pad_left([[start, *query] for query in queries], llm.device)
    tokens = tokens.masked_fill(mask == 0, start)  # `generate` looks for it in front
    return {
        "encoder_outputs": BaseModelOutput(last_hidden_state=states),
        "attention_mask": _mask(lengths, states, left=False),
        "decoder_input_ids": tokens,
        "decoder_attention_mask": mask,
    }, tokens.shape[1]


def _after_key_values(
    llm: DecoderOnlyLLM, contexts: KeyValueContexts, queries: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], int]:
    """Return queries, padded on the left, after a cache that has the keys and values."""
    prefilled = llm.prefill(contexts)
    cached = contexts.keys[0].shape[2]
    tokens, mask = pad_left(queries, llm.device)
    before = prefilled.mask
    if before is None:
        before = mask.new_ones(len(queries), cached)
    # What stands for the context is never read: `generate` leaves out what a cache has.
    ids = torch.cat([tokens.new_zeros(len(queries), cached), tokens], dim=1)
    places = prefilled.lengths[:, None] + mask.cumsum(1).sub(1).clamp(min=0)
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([before, mask], dim=1),
        "position_ids": torch.cat([places.new_zeros(len(queries), cached), places], dim=1),
        "past_key_values": prefilled.cache,
    }, ids.shape[1]


def _mask(lengths: Sequence[int], padded: Tensor, left: bool) -> Tensor:
    """Return the 0/1 mask, (rows, longest), of rows that are padded on one side."""
    places = torch.arange(padded.shape[1])
    counts = torch.tensor(lengths)[:, None]
    real = places >= padded.shape[1] - counts if left else places < counts
    return to_device(real.long(), padded.device)
