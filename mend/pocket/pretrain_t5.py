"""The pocket T5 models: their sizes, and what they are trained to do.

A window is cut in two, mostly where a row begins. The encoder reads what is before the cut; the
decoder predicts what follows it, and, as separate sequences with the same context, rows from
further on. So most answers are asked for as a query is: with a row or two in the decoder and the
demonstrations in the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from mend.pocket.fitting import Training
from mend.pocket.tokenizer import build_tokenizer

START = 0
LONGEST_CONTEXT = 112
SEQUENCES, TOKENS = 8, 16
ANYWHERE = 0.01
"""How likely a cut is at a token at which no row begins, a row's beginning being 1."""


@dataclass(frozen=True)
class Architecture:
    """Size of a model, its folder's name, and its training.

    layers: blocks of the encoder, and as many of the decoder.
    """

    name: str
    layers: int
    width: int
    heads: int
    training: Training


# Adam's steps are of one size for all parameters; embeddings start at a scale of 1, and position
# biases should get there, while matrices start smaller.
LARGE = Training(
    steps=8530,
    batch_size=128,
    learning_rate=2e-3,
    seed=1,
    easy_share=0.5,
    faster={"shared": 5, "relative_attention_bias": 25},
)
SMALL = Training(
    steps=2444,
    batch_size=128,
    learning_rate=3e-3,
    seed=1,
    faster={"shared": 3.3, "relative_attention_bias": 6.7},
)
MODELS = (Architecture("t5", 3, 128, 4, LARGE), Architecture("t5-small", 2, 64, 4, SMALL))


def build(architecture: Architecture):
    """Return a `T5ForConditionalGeneration` of this size, as the library initialises it.

    It is gated, as T5 v1.1, but its output layer is tied to the embeddings, which `transformers`
    does to every T5 that it makes.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = build_tokenizer()
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=architecture.width,
            d_kv=architecture.width // architecture.heads,
            d_ff=2 * architecture.width,
            num_layers=architecture.layers,
            num_decoder_layers=architecture.layers,
            num_heads=architecture.heads,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=START,
        )
    )


def loss(model, tokens: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy, in nats, of the decoder's tokens."""
    contexts, mask, sequences = cut(tokens, starts)
    logits = sequence_logits(model, contexts, mask, sequences).float()
    return functional.cross_entropy(logits.flatten(0, 2), sequences.flatten())


def cut(
    tokens: torch.Tensor, starts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut windows in two at random.

    Args:
        tokens: (windows, WINDOW), int64.
        starts: (windows, WINDOW), where rows begin.

    Returns:
        contexts and their mask, (windows, LONGEST_CONTEXT), padded on the right; and what the
        decoder predicts, (windows, SEQUENCES, TOKENS): the first sequence begins at the cut, the
        others there or later. An empty context is the end of a text, as for the LLM.
    """
    eos = 2
    windows, width = tokens.shape
    position = torch.arange(width, device=tokens.device)
    last = width - TOKENS
    weight = starts.float() + ANYWHERE
    at = torch.multinomial(weight * (position <= LONGEST_CONTEXT), 1)
    later = torch.multinomial(
        weight * (position >= at) * (position <= last), SEQUENCES - 1, replacement=True
    )
    begins = torch.cat([at, later], 1)[..., None] + position[:TOKENS]
    sequences = tokens[:, None].expand(windows, SEQUENCES, width).gather(2, begins)
    mask = (position[:LONGEST_CONTEXT] < at.clamp(min=1)).long()
    contexts = torch.where(at > 0, tokens[:, :LONGEST_CONTEXT], eos) * mask
    return contexts, mask, sequences


def sequence_logits(
    model, contexts: torch.Tensor, mask: torch.Tensor, sequences: torch.Tensor
) -> torch.Tensor:
    """Return (windows, sequences, tokens, vocabulary) logits of each sequence after its context.

    The sequences of a window stand side by side in one row of the decoder, each blind to the
    others, so that the context's keys and values are computed once.
    """
    windows, number, length = sequences.shape
    shifted = torch.cat([torch.full_like(sequences[..., :1], START), sequences[..., :-1]], 2)
    position = torch.arange(number * length, device=sequences.device)
    own = position[:, None] // length == position // length
    sees = own & (position <= position[:, None])
    encoded = model.encoder(input_ids=contexts, attention_mask=mask).last_hidden_state
    states = model.decoder(
        input_ids=shifted.flatten(1),
        attention_mask=sees.expand(windows, 1, -1, -1),
        encoder_hidden_states=encoded,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    if model.config.scale_decoder_outputs:
        states = states * model.model_dim**-0.5
    return model.lm_head(states).unflatten(1, (number, length))


def describe(architecture: Architecture) -> str:
    """Say what the architecture is."""
    return (
        f"T5 v1.1: {architecture.layers} + {architecture.layers} blocks, {architecture.heads} "
        f"heads, width {architecture.width}"
    )
