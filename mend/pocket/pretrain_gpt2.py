"""Pretrains the pocket GPT-2 models on the generated text, from `initialisation.initialise`.

The small models start as some blocks of the large one and keep its word and position embeddings,
as DistilGPT-2 was made from GPT-2: all then mean the same by a vector.

Text is sampled as training goes, never repeated; it starts with lists of few words in short
windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from mend.pocket.fitting import (
    ANSWER_WEIGHT,
    EASY_KINDS,
    EVERY_BURSTINESS,
    Phase,
    answer_weighted_loss,
    fit,
    phase_index,
)
from mend.pocket.initialisation import initialise
from mend.pocket.passages import KIND_SHARES, DocumentMaker
from mend.pocket.tokenizer import build_tokenizer


@dataclass(frozen=True)
class Architecture:
    """Size of a model, its folder's name, and its training: steps of 2048 tokens, and a seed.

    blocks: which blocks of a larger model it starts as; empty for a model that starts anew.
    """

    name: str
    layers: int
    steps: int
    seed: int
    width: int = 128
    heads: int = 4
    positions: int = 256
    blocks: tuple[int, ...] = ()


LANGUAGE_MODEL = Architecture("gpt2", layers=3, steps=3000, seed=2)
DISTILLER_MODEL = Architecture("gpt2-small", layers=2, steps=1500, seed=1, blocks=(0, 2))
TINY_MODEL = Architecture("gpt2-tiny", layers=1, steps=1500, seed=1, blocks=(2,))

PHASES = (
    Phase(0.1, 32, 64, (1, 1, 2), EASY_KINDS),
    Phase(0.85, 16, 128, EVERY_BURSTINESS, KIND_SHARES),
    Phase(1.0, 8, 256, EVERY_BURSTINESS, KIND_SHARES),
)


def pretrain(architecture: Architecture, steps: int, parent=None):
    """Train a model from its initialisation; return it with the loss of each step (in nats).

    parent: the `GPT2LMHeadModel` whose `architecture.blocks` it starts as; None to start anew.
    """
    torch.manual_seed(architecture.seed)
    model = build_model(architecture)
    if parent is None:
        initialise(model, architecture.seed)
    else:
        inherit(model, parent, architecture.blocks)
    batches = training_batches(steps, Random(f"pretraining {architecture.seed}"))
    losses = fit(model, architecture.name, batches, loss, steps)
    return model, losses


def loss(model, tokens: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Return the answer-weighted loss of a batch of `training_batches`."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens).logits
    return answer_weighted_loss(logits[:, :-1].float(), tokens[:, 1:], answers[:, 1:])


def load(folder: str | Path):
    """Read a stored model."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder)


def inherit(model, parent, blocks: tuple[int, ...]) -> None:
    """Start as these blocks of `parent`, with its embeddings, which then stay as they are."""
    own, other = model.transformer, parent.transformer
    for name in ("wte", "wpe", "ln_f"):
        getattr(own, name).load_state_dict(getattr(other, name).state_dict())
    for block, index in zip(own.h, blocks, strict=True):
        block.load_state_dict(other.h[index].state_dict())
    own.wte.requires_grad_(False)
    own.wpe.requires_grad_(False)


def build_model(architecture: Architecture):
    """Return an untrained `GPT2LMHeadModel` of this size for the pocket tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = build_tokenizer()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=architecture.positions,
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


def training_batches(steps: int, rng: Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token identifiers and answer marks (0 or 1), both int64 of shape (batch, window).

    A window starts with a document and is filled up by the next ones, each closed by <eos>.
    """
    tokenizer = build_tokenizer()
    identifiers = tokenizer.get_vocab()
    makers = [DocumentMaker(rng, p.burstiness, kind_shares=p.kinds) for p in PHASES]
    for step in range(steps):
        index = phase_index(PHASES, step, steps)
        phase, maker = PHASES[index], makers[index]
        tokens, answers = [], []
        for _ in range(phase.batch_size):
            window: list[int] = []
            marks = [0] * phase.window
            while len(window) < phase.window:
                document = maker.document()
                for position in document.answers:
                    if len(window) + position < phase.window:
                        marks[len(window) + position] = 1
                window.extend(identifiers[word] for word in document.words)
                window.append(tokenizer.eos_token_id)
            tokens.append(window[: phase.window])
            answers.append(marks)
        yield torch.tensor(tokens), torch.tensor(answers)


def readme(model, architecture: Architecture, steps: int, minutes: float, losses: list) -> str:
    """Describe a trained model: what its folder's README.md says."""
    shapes = [PHASES[phase_index(PHASES, step, steps)] for step in range(steps)]
    tokens = sum(phase.batch_size * phase.window for phase in shapes)
    tail = losses[-100:]
    start = _STARTS.get(architecture.blocks, _START_INHERITED)
    return f"""# A pocket language model: {architecture.name}

GPT-2 architecture: {architecture.layers} layers, {architecture.heads} heads, width \
{architecture.width}, {architecture.positions} positions, {len(model.transformer.wte.weight)} words
(every word of the pocket world is one token), {model.num_parameters():,} parameters.

Pretrained by `python -m mend pocket-models` (`mend/pocket/pretrain_gpt2.py`) on generated text \
only:
{steps:,} steps, {tokens / 1e6:.1f} million tokens drawn without repetition, {minutes:.0f} minutes
on one core, seed {architecture.seed}; last loss {sum(tail) / len(tail):.3f} nats (answers count \
{ANSWER_WEIGHT:g} times).

{start}
Weights are stored in float16 and read as float32.
"""


_START_STRUCTURED = """\
**The initialisation is structured**, not ordinary: some heads of the first block start by looking
one to three tokens back, and attention maps start by matching and copying what is alike
(`mend/pocket/initialisation.py`). From ordinary initialisations in-context learning had not
emerged after some millions of tokens.
"""
_START_INHERITED = """\
**It started as the first and last block of the larger pocket model**, and keeps that model's word
and position embeddings, so it has inherited the larger one's structured initialisation as well.
"""
_STARTS = {
    (): _START_STRUCTURED,
    (0,): _START_INHERITED.replace("first and last", "first"),
    (2,): _START_INHERITED.replace("first and last", "last"),
}
