"""The pocket GPT-2 models: their sizes, and what they are trained to do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from mend.pocket.fitting import Training
from mend.pocket.text import WINDOW
from mend.pocket.tokenizer import build_tokenizer


@dataclass(frozen=True)
class Architecture:
    """Size of a model, its folder's name, and its training."""

    name: str
    layers: int
    width: int
    heads: int
    training: Training


MODELS = (
    Architecture("gpt2", 4, 128, 4, Training(steps=2113, batch_size=256, learning_rate=2e-3)),
    Architecture("gpt2-small", 2, 96, 4, Training(3821, 256, 3e-3, seed=1)),
    Architecture("gpt2-tiny", 1, 32, 2, Training(5368, 256, 5e-3, seed=1)),
)


def build(architecture: Architecture):
    """Return a `GPT2LMHeadModel` of this size, as the library initialises it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = build_tokenizer()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=WINDOW,
            n_embd=architecture.width,
            n_layer=architecture.layers,
            n_head=architecture.heads,
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def loss(model, tokens: torch.Tensor, _starts: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy, in nats, of all tokens but the first of each window."""
    logits = model(tokens[:, :-1]).logits.float()
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def describe(architecture: Architecture) -> str:
    """Say what the architecture is."""
    return (
        f"GPT-2: {architecture.layers} layers, {architecture.heads} heads, width "
        f"{architecture.width}, {WINDOW} positions"
    )
