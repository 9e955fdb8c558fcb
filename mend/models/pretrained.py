"""The weights of models that others made: all of them, of their architecture, and finite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from mend.data.pretrained import INDEX, Pretrained
from mend.errors import UserError

#: How many names a message lists.
_LISTED = 3
_FLOATING = ("F64", "F32", "F16", "BF16")


def load_model(source: Pretrained, kind: type, head: bool = True, **options: Any) -> Any:
    """Return a model of a class of transformers, from safetensors alone.

    head: whether its class has the head that files of such models hold; a base model is loaded
        from the same files without it.
    Raises UserError, naming them, for tensors that are missing, unexpected, of another shape or
    type, or not finite: transformers would go on with random ones.
    """
    with source.loading("its weights"), _without_a_report():
        types = _types(source)
        model, found = kind.from_pretrained(
            source.path,
            **source.options(),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
            **options,
        )
        unexpected = found["unexpected_keys"]
        if not head:
            unexpected = {name for name in unexpected if not _is_of_a_head(model, name)}
        problems = {
            "no tensor for": found["missing_keys"],
            "tensors that its config.json has no place for:": unexpected,
            "tensors of another shape than its config.json says:": {
                name for name, *_ in found["mismatched_keys"]
            },
            "tensors that cannot be converted:": found["error_msgs"],
        }
        if getattr(model, "hf_quantizer", None) is None:
            problems["tensors that are not floating-point numbers:"] = _integers(model, types)
        for problem, names in problems.items():
            if names:
                raise source.refuse("its weights", f"{problem} {listed(names)}")
        if bad := not_finite(model.named_parameters()):
            raise source.refuse("its weights", f"{bad} is not finite")
    return model


@contextmanager
def _without_a_report() -> Iterator[None]:
    """Keep transformers from a table of the tensors that are told here in one line."""
    usual = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(usual)


def listed(names: Iterable[str]) -> str:
    """Return a few of some names, and how many more there are."""
    names = sorted(map(str, names))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor that is not finite; a GPU is waited for once."""
    names, sizes = [], []
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.element_size() > 1 and tensor.numel():
            names.append(name)
            sizes.append(torch.stack(torch.aminmax(tensor.detach())).double().abs().max())
    finite = torch.stack(sizes).isfinite().tolist() if sizes else []
    return next((name for name, good in zip(names, finite, strict=True) if not good), None)


def _is_of_a_head(model: torch.nn.Module, name: str) -> bool:
    """Whether a tensor of a file belongs to no part of a base model."""
    first = name.split(".")[0]
    return first != model.base_model_prefix and first not in dict(model.named_children())


def _integers(model: torch.nn.Module, types: dict[str, str]) -> list[str]:
    """Return the parameters that a file holds as something else than floating-point numbers."""
    integers = {name for name, kind in types.items() if kind not in _FLOATING}
    if not integers:  # as good as always
        return []

    def is_same(name: str, stored: str) -> bool:
        return f".{name}".endswith(f".{stored}") or f".{stored}".endswith(f".{name}")

    names = [name for name, _ in model.named_parameters()]
    return [stored for stored in integers if any(is_same(name, stored) for name in names)]


def _types(source: Pretrained) -> dict[str, str]:
    """Return the type of each tensor of a local folder's files, which are looked at first."""
    folder = Path(source.path)
    if not folder.is_dir():
        return {}
    types = {}
    for path in _files(source, folder):
        with safe_open(path, "pt") as file:
            names = file.keys()
            types.update({name: file.get_slice(name).get_dtype() for name in names})
    return types


def _files(source: Pretrained, folder: Path) -> Iterator[Path]:
    """Yield a folder's files of weights; raises UserError for one that is not its own."""
    if (folder / "model.safetensors").exists():
        yield folder / "model.safetensors"
        return
    if not (folder / INDEX).exists():
        pickled = any(folder.glob("*.bin"))
        raise source.refuse(
            "its weights",
            "it has pickled weights (*.bin) alone, which are not read: they can hold code; load "
            "them where you trust them, and save_pretrained writes model.safetensors"
            if pickled
            else "it has no model.safetensors",
        )
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise source.refuse(INDEX, "it has no weight_map")
    for name in sorted(set(map(str, names.values()))):
        if name != Path(name).name or not (folder / name).is_file():
            raise source.refuse(INDEX, f"it names {name!r}, which is no file of the folder")
        yield folder / name


def check_vocabulary(model: torch.nn.Module, tokenizer: Any, source: Pretrained) -> None:
    """Raise UserError if a tokenizer has words that a model has no embedding for.

    Tokens that were added to its vocabulary may be more: those of Gemma 3 name an image, which
    its smaller models cannot see.
    """
    words, known = tokenizer.vocab_size, model.get_input_embeddings().weight.shape[0]
    if words > known:
        raise UserError(
            f"llms: {source.role} {source.path!r} has embeddings of {known} tokens, and its "
            f"tokenizer knows {words}: they are not of one model"
        )
