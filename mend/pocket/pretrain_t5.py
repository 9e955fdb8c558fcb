"""Pretrains the pocket T5 models on the generated text, from `initialisation_t5.initialise`.

A document is cut in two, three times in four where a row ends. The encoder reads what is before the
cut; the decoder predicts what follows it, and, as separate sequences with the same context, rows
from further on. So most answers are asked for as a query is: with a row or two in the decoder and
the demonstrations in the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from mend.models.padding import pad_left
from mend.pocket.fitting import (
    ANSWER_WEIGHT,
    EASY_KINDS,
    EVERY_BURSTINESS,
    Phase,
    answer_weighted_loss,
    fit,
    phase_index,
)
from mend.pocket.initialisation_t5 import initialise
from mend.pocket.passages import KIND_SHARES, Document, DocumentMaker
from mend.pocket.tokenizer import build_tokenizer

START = 0
CUT_BETWEEN_ROWS = 0.75
SEQUENCES = 10
SEQUENCE_TOKENS = (8, 10, 10)
# Relations come last of all kinds, and later than in the GPT-2: most rows are given to them.
RELATION_KINDS = {
    "label": 0.14,
    "glossary": 0.03,
    "nli": 0.36,
    "paraphrase": 0.32,
    "pick": 0.07,
    "mate": 0.04,
    "name": 0.01,
    "look-up": 0.03,
}


@dataclass(frozen=True)
class Architecture:
    """Size of a model, its folder's name, and its training: steps and a seed.

    layers: blocks of the encoder, and as many of the decoder.
    blocks: which blocks of both stacks of a larger model it starts as; empty: it starts anew.
    """

    name: str
    layers: int
    steps: int
    seed: int
    width: int = 128
    heads: int = 6
    head_width: int = 32
    feed_forward: int = 256
    blocks: tuple[int, ...] = ()


LANGUAGE_MODEL = Architecture("t5", layers=3, steps=1300, seed=1)
DISTILLER_MODEL = Architecture("t5-small", layers=2, steps=300, seed=1, blocks=(0, 2))

PHASES = (
    Phase(0.06, 24, 56, (1, 1, 2), EASY_KINDS),
    Phase(0.6, 16, 112, EVERY_BURSTINESS, RELATION_KINDS),
    Phase(1.0, 16, 112, EVERY_BURSTINESS, KIND_SHARES),
)


def pretrain(architecture: Architecture, steps: int, parent=None):
    """Train a model from its initialisation; return it with the loss of each step (in nats).

    parent: the `T5ForConditionalGeneration` whose `architecture.blocks` it starts as, or, for a
    model that starts anew, the `GPT2LMHeadModel` whose word embeddings it starts with, or None.
    """
    torch.manual_seed(architecture.seed)
    model = build_model(architecture)
    if architecture.blocks:
        inherit(model, parent, architecture.blocks)
    else:
        initialise(model, parent and parent.transformer.wte.weight, architecture.seed)
    batches = training_batches(steps, Random(f"t5 {architecture.seed}"))
    losses = fit(model, architecture.name, batches, loss, steps)
    return model, losses


def loss(
    model, contexts: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor, answers: torch.Tensor
) -> torch.Tensor:
    """Return the answer-weighted loss of a batch of `training_batches`."""
    encoded = model.encoder(input_ids=contexts, attention_mask=mask).last_hidden_state
    sequences = len(tokens) // len(contexts)
    states = model.decoder(
        input_ids=torch.cat([torch.full_like(tokens[:, :1], START), tokens[:, :-1]], dim=1),
        encoder_hidden_states=encoded.repeat_interleave(sequences, 0),
        encoder_attention_mask=mask.repeat_interleave(sequences, 0),
        use_cache=False,
    ).last_hidden_state
    return answer_weighted_loss(model.lm_head(states), tokens, answers)


def load(folder: str | Path):
    """Read a stored model."""
    from transformers import T5ForConditionalGeneration

    return T5ForConditionalGeneration.from_pretrained(folder)


def inherit(model, parent, blocks: tuple[int, ...]) -> None:
    """Start as these blocks of `parent`, with its word embeddings, which then stay as they are.

    blocks: the first must be 0, which has the stack's table of biases.
    """
    model.shared.load_state_dict(parent.shared.state_dict())
    for own, other in ((model.encoder, parent.encoder), (model.decoder, parent.decoder)):
        own.final_layer_norm.load_state_dict(other.final_layer_norm.state_dict())
        for block, index in zip(own.block, blocks, strict=True):
            block.load_state_dict(other.block[index].state_dict())
    model.shared.requires_grad_(False)


def build_model(architecture: Architecture):
    """Return an untrained `T5ForConditionalGeneration` for the pocket tokenizer.

    It is as T5 v1.1: gated, its outputs not scaled. `transformers` ties the output layer to the
    embeddings unless a checkpoint has both.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = build_tokenizer()
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=architecture.width,
            d_kv=architecture.head_width,
            d_ff=architecture.feed_forward,
            num_layers=architecture.layers,
            num_decoder_layers=architecture.layers,
            num_heads=architecture.heads,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=START,
        )
    )


def training_batches(steps: int, rng: Random) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield contexts and their mask, (documents, longest), and tokens and answer marks.

    The last two are int64 of shape (documents x SEQUENCES, n), the sequences of one document
    after each other.
    """
    identifiers = build_tokenizer().get_vocab()
    makers = [DocumentMaker(rng, p.burstiness, kind_shares=p.kinds) for p in PHASES]
    for step in range(steps):
        index = phase_index(PHASES, step, steps)
        phase, maker, tokens = PHASES[index], makers[index], SEQUENCE_TOKENS[index]
        contexts, sequences, marks = [], [], []
        for _ in range(phase.batch_size):
            document = maker.document()
            words = [identifiers[word] for word in document.words]
            cut, starts = _cut(document, phase.window, tokens, rng)
            # As for the LLM, an empty context is the end of a text.
            contexts.append(words[:cut] or [identifiers["<eos>"]])
            for start in starts:
                sequences.append(words[start : start + tokens])
                marks.append([int(i in document.answers) for i in range(start, start + tokens)])
        yield *pad_left(contexts, torch.device("cpu")), torch.tensor(sequences), torch.tensor(marks)


def _cut(document: Document, window: int, tokens: int, rng: Random) -> tuple[int, list[int]]:
    """Sample where the context ends, at most `window`, and where the decoder's sequences start."""
    last = len(document.words) - tokens
    rows = [0, *(answer + 1 for answer in document.answers)]
    rows = [row for row in rows if row <= last] if document.answers else range(last + 1)
    cut = rng.randint(0, min(window, last))
    if rng.random() < CUT_BETWEEN_ROWS:
        cut = max(row for row in rows if row <= cut)
    later = [row for row in rows if row > cut]
    if len(later) < SEQUENCES - 1:
        later += [cut] * (SEQUENCES - 1)
    return cut, [cut, *rng.sample(later, SEQUENCES - 1)]


def readme(model, architecture: Architecture, steps: int, minutes: float, losses: list) -> str:
    """Describe a trained model: what its folder's README.md says."""
    tail = losses[-100:]
    return f"""# A pocket language model: {architecture.name}

T5 v1.1 architecture: {architecture.layers} + {architecture.layers} blocks, {architecture.heads} \
heads of {architecture.head_width}, width {architecture.width}, {len(model.shared.weight)} words
(every word of the pocket world is one token), {model.num_parameters():,} parameters.

Pretrained by `python -m mend pocket-models` (`mend/pocket/pretrain_t5.py`) on generated text only:
{steps:,} steps of {PHASES[-1].batch_size} documents drawn without repetition, {SEQUENCES} decoder \
sequences each, {minutes:.0f} minutes
on one core, seed {architecture.seed}; last loss {sum(tail) / len(tail):.3f} nats (answers count \
{ANSWER_WEIGHT:g} times).

{_START_INHERITED if architecture.blocks else _START_STRUCTURED}
Weights are stored in float16 and read as float32.
"""


_START_STRUCTURED = """\
**The initialisation is structured**, not ordinary: some heads of both stacks start by looking one
to three tokens back, and the others, and all of cross-attention, by matching and copying what is
alike. **Its word embeddings start as the pocket GPT-2's**, centred and scaled
(`mend/pocket/initialisation_t5.py`).
"""
_START_INHERITED = """\
**It started as the first and last blocks of the larger pocket model**, and keeps that model's word
embeddings, so it has inherited the larger one's structured initialisation as well.
"""
