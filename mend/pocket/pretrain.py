"""Pretrains every pocket language model from nothing, each from its own ordinary initialisation.

Each family (`pretrain_gpt2`, `pretrain_t5`) has one language model, the LLM, and smaller ones of
other widths for distillers.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from mend.atomic_io import check_replaceable
from mend.pocket import pretrain_gpt2, pretrain_t5
from mend.pocket.fitting import DOCUMENTS, Text, device_here, fit, make_text, save
from mend.pocket.text import WINDOW

MODELS = tuple(
    (family, architecture)
    for family in (pretrain_gpt2, pretrain_t5)
    for architecture in family.MODELS
)


def pretrain_models(output_folder: str | Path, steps: int | None = None) -> None:
    """Pretrain the language models, one after the other, and write each folder whole.

    Args:
        output_folder: gets one folder for each model, with weights, tokenizer and README.md.
        steps: instead of each model's own number of steps.
    """
    for _, architecture in MODELS:
        check_replaceable(Path(output_folder) / architecture.name)
    text = make_text(DOCUMENTS if steps is None else min(DOCUMENTS, 100 * steps), device_here())
    for family, architecture in MODELS:
        if steps is not None:
            training = replace(architecture.training, steps=steps)
            architecture = replace(architecture, training=training)
        pretrain_model(family, architecture, Path(output_folder), text)


def pretrain_model(family, architecture, output_folder: Path, text: Text) -> None:
    """Pretrain one model on the device of the text."""
    began = time.monotonic()
    training = architecture.training
    torch.manual_seed(training.seed)
    device = text.mixed[0].device
    model = family.build(architecture).to(device)
    losses = fit(model, architecture.name, text, family.loss, training)
    minutes = (time.monotonic() - began) / 60
    took = f"{minutes:.0f} minutes on {'a GPU' if device.type == 'cuda' else 'processors'}"
    page = readme(family, architecture, model, len(text.mixed[0]), took, losses[-1])
    save(model, output_folder / architecture.name, page)


def readme(family, architecture, model, documents: int, took: str, loss: float) -> str:
    """Describe a trained model: what its folder's README.md says."""
    training = architecture.training
    tokens = training.steps * training.batch_size * WINDOW / 1e6
    return f"""# A pocket language model: {architecture.name}

{family.describe(architecture)}, {model.config.vocab_size} tokens, \
{model.num_parameters():,} parameters.

Pretrained by `snakemake pocket_models` (`mend/pocket/pretrain.py`) on generated text only, from the
ordinary initialisation of `transformers`: {training.steps:,} steps of {training.batch_size} \
windows, {tokens:.0f} million tokens
of {documents:,} documents, {took}, seed {training.seed};
last loss {loss:.3f} nats. Weights are stored in float16 and read as float32.
"""
