"""Selective context (Li et al., 2023): the tokens that the LLM itself expects the least.

"Compressing Context to Enhance Inference Efficiency of Large Language Models" drops what has little
self-information, -log P(token | what is before it), since the LLM knows it anyway. The paper drops
a share of the text's phrases; here as many tokens stay as are asked for, so that methods can be
compared at an equal budget, and they are chosen one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM

#: Texts that are read together, and tokens whose logits are in memory together.
AT_ONCE, SIZE = 16, 256


class SelectiveContext(Method):
    """Of the demonstrations' tokens, those with the most self-information."""

    display_name = "Selective context"
    keep: Annotated[
        int, Field(ge=1, le=100_000, description="Tokens of the demonstrations that stay.")
    ]

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the tokens that stay of each sequence, in their order."""
        kept = []
        for tokens, information in zip(
            demonstrations, self_information(llm, demonstrations), strict=True
        ):
            # Of equals the first stays: sorting keeps their order.
            order = sorted(range(len(tokens)), key=information.__getitem__, reverse=True)
            kept.append([tokens[place] for place in sorted(order[: self.keep])])
        return llm.token_context(kept)

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of reading the demonstrations, and of their tokens' logits."""
        from mend.models.operations import FORWARD, sizes_of

        told = len(demonstrations) - _untold(llm)
        if told < 1:
            return 0.0
        head = llm.model.get_output_embeddings().weight.numel()
        rows = [(len(demonstrations) - told, told)]
        return sizes_of(llm).operations(0, rows, FORWARD) + 2 * head * told


def _untold(llm: FrozenLLM) -> int:
    """Return how many first tokens nothing comes before."""
    return 0 if llm.prefix or llm.has_start_token else 1


def self_information(llm: FrozenLLM, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return -log P(token | the tokens before it), in nats, of each token of each text.

    A first token that nothing comes before has as much as there can be.
    """
    first = _untold(llm)
    found = [[float("inf")] * min(first, len(tokens)) for tokens in texts]
    asked = [number for number, tokens in enumerate(texts) if len(tokens) > first]
    for start in range(0, len(asked), AT_ONCE):
        part = asked[start : start + AT_ONCE]
        read = _log_probabilities(llm, [texts[number] for number in part], first)
        for number, values in zip(part, read, strict=True):
            found[number] += [-value for value in values]
    return found


def _log_probabilities(
    llm: FrozenLLM, texts: Sequence[Sequence[int]], first: int
) -> list[list[float]]:
    """Return log P of each token of each text but the first `first`."""
    import torch

    from mend.models.frozen_llm import Rows

    before, after = [text[:first] for text in texts], [text[first:] for text in texts]
    with torch.no_grad():
        states = llm.states(
            llm.token_context([[] for _ in texts]), Rows(range(len(texts)), before, after)
        )
        found = []
        for row, tokens in zip(states, after, strict=True):
            targets = torch.tensor(tokens, device=row.device)[:, None]
            logs = [
                llm.logits(part).log_softmax(-1).gather(1, target)[:, 0]
                for part, target in zip(
                    row[: len(tokens)].split(SIZE), targets.split(SIZE), strict=True
                )
            ]
            found.append(torch.cat(logs))
    return [values.tolist() for values in found]
