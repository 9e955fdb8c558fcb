"""What a model is, in a few characters: other weights, settings or tokens have others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

#: How many numbers of a tensor are looked at, evenly spread: two trained models differ everywhere.
_NUMBERS = 2**16
#: What a configuration says of files and versions, and not of the model.
_OF_FILES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_OF_FILES += ("use_cache",)
_TEXT = "A text, of words\nand numbers: 12 + 3.5 is 15.5. été, naïve, Übung; don't (w1 w2)"


def fingerprint(model: torch.nn.Module, tokenizer: Any, *others: Any) -> str:
    """Return 16 hexadecimal digits of a model as it is loaded, and of its tokenizer.

    others: whatever else decides what it computes, of JSON's types.
    """
    digest = hashlib.sha256()
    for part in _parts(model, tokenizer, others):
        digest.update(part)
    return digest.hexdigest()[:16]


def settings_of(config: Any) -> dict[str, Any]:
    """Return what a configuration of transformers says of a model itself."""
    return {key: value for key, value in config.to_diff_dict().items() if key not in _OF_FILES}


def as_bytes(tensor: Tensor) -> Any:
    """Return the bytes of a tensor, of any type and on any device."""
    flat = tensor.detach().reshape(-1).cpu().contiguous()
    return flat.view(torch.uint8).numpy().data


def _parts(model: torch.nn.Module, tokenizer: Any, others: tuple) -> Iterator[Any]:
    for name, tensor in sorted(model.named_parameters(), key=lambda item: item[0]):
        yield f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
        yield as_bytes(tensor.reshape(-1)[:: max(1, tensor.numel() // _NUMBERS)])
    words, ids = [], []
    if tokenizer is not None:
        words = sorted(tokenizer.get_vocab().items())
        ids = list(tokenizer(_TEXT)["input_ids"])
    values = [settings_of(model.config), words, ids, others]
    yield json.dumps(values, sort_keys=True, default=str).encode()
