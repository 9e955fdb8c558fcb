"""One plain forward pass of a causal language model's body, over rows padded on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache, masking_utils

from mend.errors import UserError
from mend.models.architecture import rope_switch, takes
from mend.models.compilation import padded_length, uncompiled
from mend.models.padding import indices


def causal_states(
    body: torch.nn.Module, rows: Tensor, lengths: Sequence[int], positions: int
) -> Tensor:
    """Return the last hidden states of rows, (rows, longest, width).

    rows: token ids, (rows, longest), or embeddings, (rows, longest, width), padded on the right;
    lengths: how many of each are real; positions: how many the model has.

    No real token sees what comes after it, and positions count from the first, so that neither a
    mask nor position ids are needed. Rows on both sides of a model's switch of rotations are passes
    of their own (`mend.models.architecture.rope_switch`).
    Raises UserError for more tokens than the model has positions.
    """
    switch = rope_switch(body.config)
    longest = rows.shape[1]
    _check_length(body, longest, positions)
    if switch and min(lengths) <= switch < longest:
        short = [row for row, length in enumerate(lengths) if length <= switch]
        long = [row for row, length in enumerate(lengths) if length > switch]
        parts = []
        for chosen in (short, long):
            width = max((lengths[row] for row in chosen), default=0)
            if chosen:
                part = _pass(body, rows[chosen, :width], positions)
                parts.append(torch.nn.functional.pad(part, (0, 0, 0, longest - width)))
        order = sorted(range(len(lengths)), key=[*short, *long].__getitem__)
        return torch.cat(parts)[indices(order, rows.device)]
    return _pass(body, rows, positions)


def causal_key_values(
    body: torch.nn.Module, rows: Tensor, positions: int
) -> tuple[Tensor, DynamicCache]:
    """Return the last hidden states of rows of embeddings, and the keys and values of all layers.

    As `causal_states`, but for models with a switch of rotations, which it does not look at.
    """
    _check_length(body, rows.shape[1], positions)
    cache = DynamicCache(config=body.config)
    # A compiled block would be compiled again for each layer of the cache.
    with _whole_rows(), uncompiled(body):
        output = body(inputs_embeds=rows, past_key_values=cache, use_cache=True)
    return output.last_hidden_state, cache


def _check_length(body: torch.nn.Module, longest: int, positions: int) -> None:
    if longest > positions:
        raise UserError(
            f"llms: a row of {longest} tokens is longer than the {positions} positions of a "
            f"{body.config.model_type}; choose a shorter protocol.longest_context"
        )


def _pass(body: torch.nn.Module, rows: Tensor, positions: int) -> Tensor:
    longest, of_vectors = rows.shape[1], rows.is_floating_point()
    missing = padded_length(body, longest, positions) - longest
    if missing:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, missing) if of_vectors else (0, missing))
    name = "inputs_embeds" if of_vectors else "input_ids"
    options = {"use_cache": False} if takes(body, "use_cache") else {}
    with _whole_rows():
        return body(**{name: rows}, **options).last_hidden_state[:, :longest]


@contextmanager
def _whole_rows() -> Iterator[None]:
    """Tell transformers that each row is one text, all of it: to see that, it waits for a GPU."""
    ignore = masking_utils._ignore_causal_mask_sdpa
    answers = {
        "find_packed_sequence_indices": lambda position_ids: None,
        # Some versions make an OPT a mask of ones.
        "_ignore_causal_mask_sdpa": lambda mask, *sizes, **more: ignore(None, *sizes, **more),
    }
    usual = {name: getattr(masking_utils, name) for name in answers}
    try:
        for name, answer in answers.items():
            setattr(masking_utils, name, answer)
        yield
    finally:
        for name, function in usual.items():
            setattr(masking_utils, name, function)
