"""Pretrains every pocket language model from nothing.

Each family (`pretrain_gpt2`, `pretrain_t5`) has one language model, the LLM, and smaller ones for
distillers, which start as blocks of it and keep its embeddings. The T5 starts with the GPT-2's.
"""

from __future__ import annotations

import time
from pathlib import Path

from mend.atomic_io import check_replaceable
from mend.pocket import pretrain_gpt2, pretrain_t5
from mend.pocket.fitting import save

MODELS = (
    (pretrain_gpt2, pretrain_gpt2.LANGUAGE_MODEL),
    (pretrain_gpt2, pretrain_gpt2.DISTILLER_MODEL),
    (pretrain_gpt2, pretrain_gpt2.TINY_MODEL),
    (pretrain_t5, pretrain_t5.LANGUAGE_MODEL),
    (pretrain_t5, pretrain_t5.DISTILLER_MODEL),
)


def pretrain_models(output_folder: str | Path, steps: int | None = None) -> None:
    """Pretrain the language models, one after the other, and write each folder whole.

    Args:
        output_folder: gets one folder for each model, with weights, tokenizer and README.md.
        steps: instead of each model's own number of steps.
    """
    for _, architecture in MODELS:
        check_replaceable(Path(output_folder) / architecture.name)
    for family, architecture in MODELS:
        pretrain_model(family, architecture, Path(output_folder), steps)


def pretrain_model(family, architecture, output_folder: Path, steps: int | None = None) -> None:
    """Pretrain one model, which starts from others as `output_folder` has them."""
    folder = output_folder / architecture.name
    parent = None
    if architecture.blocks:
        parent = family.load(output_folder / family.LANGUAGE_MODEL.name)
    elif family is pretrain_t5:
        parent = pretrain_gpt2.load(output_folder / pretrain_gpt2.LANGUAGE_MODEL.name)
    number = steps or architecture.steps
    began = time.monotonic()
    model, losses = family.pretrain(architecture, number, parent)
    minutes = (time.monotonic() - began) / 60
    save(model, folder, family.readme(model, architecture, number, minutes, losses))
