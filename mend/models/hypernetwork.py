"""Low-rank weights for an LLM's modules, made of a few vectors by trained linear maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Hypernetwork(nn.Module):
    """For each module a map to A and one to B: of vector r they make row r of A and column r of B.

    The maps to A start random, so that A is as LoRA starts it, and those to B at zero: what is
    made changes nothing before training.
    """

    def __init__(self, width: int, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Make the maps of vectors of `width`; sizes: (in, out) of each module, by its name."""
        super().__init__()
        self.names = list(sizes)
        self.inputs, self.outputs = ([size[side] for size in sizes.values()] for side in (0, 1))
        # One map for all modules is one product; theirs are its parts.
        self.down = nn.Linear(width, sum(self.inputs), bias=False)
        self.up = nn.Linear(width, sum(self.outputs), bias=False)
        with torch.no_grad():
            for part, size in zip(self.down.weight.split(self.inputs), self.inputs, strict=True):
                # A's numbers have a variance of 1 / (3 in), of vectors whose numbers have one of 1.
                part.normal_(std=(3 * size * width) ** -0.5)
            self.up.weight.zero_()

    def operations(self, vectors: int) -> float:
        """Return the operations of making weights of so many vectors, two a product."""
        return 2.0 * vectors * (self.down.weight.numel() + self.up.weight.numel())

    def forward(self, vectors: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return A, (contexts, rank, in), and B, (contexts, out, rank), of each module.

        vectors: (contexts, rank, width).
        """
        down = self.down(vectors).split(self.inputs, dim=-1)
        up = self.up(vectors).split(self.outputs, dim=-1)
        transposed = (part.mT for part in up)
        return dict(zip(self.names, down, strict=True)), dict(
            zip(self.names, transposed, strict=True)
        )
