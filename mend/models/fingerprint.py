"""What a model is, in a few characters: other weights, settings or tokens have others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mend.configuration.specs.saved import ModelIdentity

#: How many numbers of a tensor are looked at, evenly spread: two trained models differ everywhere.
_NUMBERS = 2**16
#: What a configuration says of files and versions, and not of the model.
_OF_FILES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_OF_FILES += ("use_cache",)
#: How many numbers of the embeddings stand for them, and by what share of their size another type
#: or quantization changes one.
_SAMPLE, _ROUNDING = 256, 0.02
_TEXT = "A text, of words\nand numbers: 12 + 3.5 is 15.5. été, naïve, Übung; don't (w1 w2)"


def fingerprint(model: torch.nn.Module, tokenizer: Any, *others: Any) -> str:
    """Return 16 hexadecimal digits of a model as it is loaded, and of its tokenizer.

    others: whatever else decides what it computes, of JSON's types.
    """
    return _digest(_parts(model, tokenizer, others))


def _digest(parts: Iterator[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
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
    yield from _of_weights(model)
    words, ids = [], []
    if tokenizer is not None:
        words, ids = _words_and_ids(tokenizer)
    values = [settings_of(model.config), words, ids, others]
    yield json.dumps(values, sort_keys=True, default=str).encode()


def _of_weights(model: torch.nn.Module) -> Iterator[Any]:
    for name, tensor in sorted(model.named_parameters(), key=lambda item: item[0]):
        yield f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
        yield as_bytes(tensor.reshape(-1)[:: max(1, tensor.numel() // _NUMBERS)])


def _of_tokenizer(tokenizer: Any) -> Iterator[bytes]:
    yield json.dumps(_words_and_ids(tokenizer)).encode()


def _words_and_ids(tokenizer: Any) -> tuple[list, list[int]]:
    return sorted(tokenizer.get_vocab().items()), list(tokenizer(_TEXT)["input_ids"])


def identity(model: torch.nn.Module, tokenizer: Any) -> ModelIdentity:
    """Return what a model is known by, wherever it is and whatever loads it."""
    embedding = model.get_input_embeddings().weight.detach().reshape(-1)
    sample = embedding[:: max(1, embedding.numel() // _SAMPLE)][:_SAMPLE].float().cpu()
    quantized = getattr(model, "hf_quantizer", None) is not None
    return ModelIdentity(
        architecture=model.config.model_type,
        settings=json.loads(json.dumps(settings_of(model.config), default=str)),
        tokenizer=_digest(_of_tokenizer(tokenizer)),
        weights=_digest(_of_weights(model)),
        dtype="quantized" if quantized else str(model.dtype).removeprefix("torch."),
        sample=[float(f"{number:.6g}") for number in sample.tolist()],
    )


def difference(found: ModelIdentity, expected: ModelIdentity) -> str | None:
    """Return in what one model is not the other, None if it is.

    Where both are of one type, the weights are compared exactly; else as far as rounding lets them.
    Settings are compared that both have: versions of transformers know more or fewer.
    """
    if found.architecture != expected.architecture:
        return f"it is a {found.architecture}, not a {expected.architecture}"
    if found.tokenizer != expected.tokenizer:
        return "its tokenizer is another"
    for key in sorted(found.settings.keys() & expected.settings.keys() - {"quantization_config"}):
        if found.settings[key] != expected.settings[key]:
            return f"its {key} is {found.settings[key]}, not {expected.settings[key]}"
    other = "its weights are others: another revision, or trained further"
    # Of two quantizations the bytes may differ by version or device.
    if found.dtype == expected.dtype != "quantized":
        return None if found.weights == expected.weights else other
    if len(found.sample) != len(expected.sample):
        return "it has other embeddings"
    pairs = list(zip(found.sample, expected.sample, strict=True))
    scale = (sum(right * right for _, right in pairs) / len(pairs)) ** 0.5
    return None if all(abs(a - b) <= _ROUNDING * (scale + abs(b)) for a, b in pairs) else other
