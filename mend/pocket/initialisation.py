"""The structured initialisation of the pocket language models.

An ordinary initialisation of so small a model had not learned to use its context after millions of
tokens; from this one it does within half a million. Two things are set, the rest is as usual:

- Positions start as sines and cosines, and some heads of the first block start by looking one, two
  and three tokens back.
- In all blocks the value and output maps of a head start as a projection and its transpose, and
  from the second block on a head's query and key maps start equal: attention starts by looking at,
  and copying, what is alike (after Trockman and Kolter, Mimetic Initialization of Self-Attention
  Layers, ICML 2023, but with a plus where they have a minus for the value and output maps).

Together they give the model a head start on matching and copying. The words' meanings, relations,
and everything the MLPs do are learned from the text.
"""

from __future__ import annotations

import torch

EMBEDDING_SCALE = 0.03
POSITION_SCALE = 0.06
HIGHEST_FREQUENCY = 2.5
LOOK_BACK = (1, 2, 3)
LOOK_BACK_SHARPNESS = 2.5
MATCH_SCALE = 1.4
COPY_SCALE = 0.23


@torch.no_grad()
def initialise(model, seed: int = 0) -> None:
    """Set the parameters of a `GPT2LMHeadModel` in place, as the module's docstring says."""
    generator = torch.Generator().manual_seed(seed)
    width, heads = model.config.n_embd, model.config.n_head
    words, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    words.normal_(0, EMBEDDING_SCALE, generator=generator)
    frequencies = HIGHEST_FREQUENCY * 10000 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(len(positions))[:, None] * frequencies
    positions.copy_(POSITION_SCALE * torch.cat([angles.sin(), angles.cos()], dim=1))
    for index, block in enumerate(model.transformer.h):
        query, key, value = block.attn.c_attn.weight.split(width, dim=1)
        for head in range(heads):
            columns = slice(head * width // heads, (head + 1) * width // heads)
            if index > 0:
                match = projection(width, width // heads, generator)
                query[:, columns] = key[:, columns] = MATCH_SCALE * match
            elif head < len(LOOK_BACK):
                _look_back(query[:, columns], key[:, columns], frequencies, LOOK_BACK[head])
            copy = COPY_SCALE * projection(width, width // heads, generator)
            value[:, columns] = copy
            block.attn.c_proj.weight[columns] = copy.T


def projection(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Return a random matrix, (rows, columns), with orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]


def _look_back(
    query: torch.Tensor, key: torch.Tensor, frequencies: torch.Tensor, distance: int
) -> None:
    """Set a head's maps (width, head width) so that its scores peak `distance` tokens back.

    With sin(wi), cos(wi) in the embedding of position i, the query turns them by -w * distance and
    the key reads them as they are: the score is a sum of cos(w (i - distance - j)).
    """
    query.zero_()
    key.zero_()
    half = len(frequencies)
    strength = LOOK_BACK_SHARPNESS**0.5
    for pair in range(query.shape[1] // 2):
        turn = frequencies[pair] * distance
        sine, cosine = pair, half + pair
        query[sine, 2 * pair] = query[cosine, 2 * pair + 1] = strength * turn.cos()
        query[cosine, 2 * pair] = -strength * turn.sin()
        query[sine, 2 * pair + 1] = strength * turn.sin()
        key[sine, 2 * pair] = key[cosine, 2 * pair + 1] = strength
