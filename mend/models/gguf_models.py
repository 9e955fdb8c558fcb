"""A language model from a GGUF file: a folder in the hub's layout, as everything here reads it.

GGUF files are how some language models come with a Python package, for those who cannot reach the
hub. Their weights have a few bits each; they are written as float32, which holds them exactly.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from mend.atomic_io import atomic_folder
from mend.configuration.specs.gguf_models import GGUFModel
from mend.data.package_files import package_file
from mend.data.pretrained import Pretrained
from mend.errors import UserError
from mend.progress import logger

_JOINED = "model.gguf"
_READ_BYTES = 1 << 24


def convert_gguf(spec: GGUFModel, output: str | Path) -> None:
    """Write config.json, model.safetensors in float32 and the tokenizer of a GGUF file.

    output: the folder, which appears whole or not at all.
    Raises UserError if a file is not there or another than the one that is pinned, the package
    gguf is not installed, or the architecture is none that transformers reads from GGUF.
    """
    if find_spec("gguf") is None:
        raise UserError(
            "reading GGUF files needs the Python package gguf; pip install 'mend-icl[gguf]'"
        )
    parts = [package_file(name) for name in spec.files]
    with atomic_folder(output) as folder:
        digest = hashlib.sha256()
        with (folder / _JOINED).open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    while block := file.read(_READ_BYTES):
                        digest.update(block)
                        whole.write(block)
        if digest.hexdigest() != spec.sha256:
            raise UserError(
                f"{', '.join(map(str, parts))}: another file than the one that is pinned: its "
                f"SHA-256 is {digest.hexdigest()}, and gguf_models says {spec.sha256}"
            )
        with Pretrained(str(parts[0]), role="the GGUF model").loading("GGUF"):
            _write_model(folder)
        (folder / _JOINED).unlink()


def _write_model(folder: Path) -> None:
    """Write what a folder's GGUF file holds beside it."""
    tokenizer = _tokenizer(folder)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_JOINED, dtype=torch.float32)
    # A model that was read from GGUF refuses to be saved: its weights go into one that was not.
    read.config.__dict__.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    logger.info("%s, %.0f million parameters", read.config.model_type, model.num_parameters() / 1e6)


def _tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder's GGUF file, as the file says that it is.

    Raises UserError if the installed transformers reads another one: version 5.3 takes SmolLM2's
    for Llama's, and 5.17 ends its texts with another token.
    """
    from gguf import GGUFReader

    fields = GGUFReader(folder / _JOINED).fields

    def value(name: str) -> Any:
        field = fields.get(f"tokenizer.ggml.{name}")
        return field and field.contents()

    words = value("tokens")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_JOINED)
    for name in ("bos", "eos", "unknown", "padding"):
        if (number := value(f"{name}_token_id")) is not None:
            short = {"unknown": "unk", "padding": "pad"}.get(name, name)
            setattr(tokenizer, f"{short}_token", words[number])
    begins = tokenizer("a")["input_ids"][0] == value("bos_token_id")
    found = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    same = found == [word.replace(" ", "▁") for word in words]  # spaces as Gemma writes them
    if not same or begins != bool(value("add_bos_token")):
        raise UserError(
            f"transformers {transformers.__version__} misreads the tokenizer of this GGUF file; "
            "pip install --upgrade transformers"
        )
    return tokenizer
