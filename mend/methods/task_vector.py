"""Task vectors (Hendel et al., 2023): what demonstrations add to the state before an answer.

"In-Context Learning Creates Task Vectors" reads demonstrations and a dummy query, takes the state
of the query's last token after one block, and puts it in place of that of other queries, which are
read without demonstrations. "Function Vectors in Large Language Models" (Todd et al., 2023) adds a
vector to that state instead, the mean output of chosen attention heads. Here the vector is a
difference, so that what is the dummy query's own falls out: the state of a query's last token after
the other demonstrations, less that of the same query alone. Its mean over the last demonstrations,
each as the query once, is added. Of one demonstration alone there are no others, and the vector is
zero. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mend.data.demonstrations import pairs_of
from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.configuration.specs.reading import ReadingSettings
    from mend.models.contexts import Contexts
    from mend.models.frozen_llm import FrozenLLM

#: Demonstrations that are the query once, and texts that are read together.
QUERIES, AT_ONCE = 4, 16


class TaskVector(Method):
    """An addition to the state of a query's last token, after one block."""

    display_name = "Task vector"
    kind = "additions"
    layer: Annotated[
        int, Field(ge=0, le=10_000, description="The block after which it is added, from 0.")
    ]

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the addition of each sequence."""
        import torch

        width = llm.model.config.hidden_size
        vectors = torch.zeros(len(demonstrations), width, device=llm.device)
        # An LLM, or a block, that cannot be is told before anything is read.
        llm.addition_context({self.layer: vectors})
        texts, owner = [], []
        for number, tokens in enumerate(demonstrations):
            for pair in asked(tokens, bool(llm.prefix)):
                texts += pair
                owner.append(number)
        states = self._states(llm, texts)
        for number, after, alone in zip(owner, states[::2], states[1::2], strict=True):
            vectors[number] += (after - alone).to(llm.device) / owner.count(number)
        return llm.addition_context({self.layer: vectors})

    def _states(self, llm: FrozenLLM, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the state of each text's last token after the block, (width,), in float32."""
        import torch

        from mend.models.changes import states_of_block
        from mend.models.frozen_llm import Rows

        found: list[Tensor] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for start in range(0, len(order), AT_ONCE):
            numbers = order[start : start + AT_ONCE]
            rows = Rows(range(len(numbers)), [texts[n] for n in numbers], [[0] for _ in numbers])
            nothing = llm.token_context([[] for _ in numbers])
            with torch.no_grad(), states_of_block(llm.body, self.layer) as kept:
                llm.states(nothing, rows)
            for row, number in enumerate(numbers):
                last = len(llm.prefix) + len(texts[number]) - 1
                found[number] = kept[0][row, last].float().clone()
        return found

    def longest_context(self, trained: nn.Module, reading: ReadingSettings) -> int:
        """Return how many tokens of demonstrations the LLM reads at most, with nothing after."""
        return min(reading.longest_context.llm, trained.llm.max_positions)

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of reading each text that is asked."""
        from mend.models.operations import layers_of

        layers = layers_of(llm.body)
        texts = [text for pair in asked(demonstrations, bool(llm.prefix)) for text in pair]
        return float(sum(layers.operations(len(llm.prefix) + len(text)) for text in texts))


def asked(tokens: Sequence[int], starts: bool) -> list[tuple[list[int], list[int]]]:
    """Return texts that end where an answer is predicted: after other demonstrations, and alone.

    Of the last QUERIES demonstrations but the first of all, before which no separator stands, each
    is the query once. starts: whether something comes before all texts; else an empty query has no
    state of its own.
    """
    pairs, found = pairs_of(tokens), []
    for number in range(max(1, len(pairs) - QUERIES), len(pairs)):
        query = pairs[number][0]
        others = [token for x, y in (*pairs[:number], *pairs[number + 1 :]) for token in (*x, *y)]
        if query or starts:
            found.append(([*others, *query], query))
    return found
