"""Cartridge (Eyuboglu et al., 2025): keys and values that are trained for each demonstration set.

"Cartridges: Lightweight and general-purpose long context representations via self-study" trains a
small cache of keys and values by gradient descent, so that the LLM with it predicts what the LLM
with the whole text predicts. It starts as the keys and values of the text's first tokens, and its
first position, an attention sink, stays as it is (section 3).

The paper trains on conversations about the text that the LLM generates (self-study). Here nothing
is generated: each demonstration in turn is the query. The teacher reads the other demonstrations
and then its x and y, the student the cartridge and the same x and y; the loss is the KL divergence
of what they predict, averaged over the tokens of x and y, and over the demonstrations. One
demonstration alone teaches nothing, and its cartridge stays as it starts. The state that predicts
the first token after a cartridge is trained with it. Text goes on at the position after its last,
as after so many tokens.

Each set has its own parameters, the sets' losses are added up, and Adam treats each number alone:
so sets that are trained together become what each becomes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from mend.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mend.models.contexts import Contexts, KeyValueContexts
    from mend.models.frozen_llm import FrozenLLM

#: Demonstrations of a set that a step trains on; the next step goes on with those after them.
QUERIES = 4
#: Rows that the teacher reads together.
AT_ONCE = 16


class Cartridge(Method):
    """Keys and values that are trained to stand for the demonstrations."""

    display_name = "Cartridge"
    kind = "key-values"
    length: Annotated[
        int, Field(ge=1, le=100_000, description="l, keys and values of each head of a layer.")
    ]
    steps: int = Field(40, ge=0, le=100_000, description="Steps of training for each set.")
    learning_rate: float = Field(0.02, gt=0, description="Adam's, in all steps.")

    def contexts(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[Sequence[int]]
    ) -> Contexts:
        """Return the keys and values that are trained for each sequence."""
        from mend.models.contexts import KeyValueContexts

        lessons = [_lessons(tokens, llm.max_positions - self.length) for tokens in demonstrations]
        # As many sets together as have their logits in memory together.
        parts: list[list[int]] = [[]]
        size = 0
        for number, of_set in enumerate(lessons):
            tokens = sum(len(lesson.text) for lesson in of_set[:QUERIES])
            if parts[-1] and size + tokens > llm.logits_batch_size:
                parts.append([])
                size = 0
            parts[-1].append(number)
            size += tokens
        made = []
        for numbers in parts:
            first = [demonstrations[number][: self.length] for number in numbers]
            start = llm.key_values(llm.token_context(first))
            made.append(self._trained(llm, start, [lessons[number] for number in numbers]))
        return KeyValueContexts.join(made)

    def making_operations(
        self, llm: FrozenLLM, trained: nn.Module, demonstrations: Sequence[int]
    ) -> float:
        """Return the operations of the first pass, the teacher's, and all steps.

        Counted as if gradients went through all of the first layer, which they need not.
        """
        from collections import Counter

        from mend.models.operations import FORWARD, FROZEN, sizes_of

        sizes, head = sizes_of(llm), llm.model.get_output_embeddings().weight.numel()
        before = len(llm.prefix) + min(self.length, len(demonstrations))
        found = sizes.reading(before, 0, 0, 0)
        lessons = _lessons(demonstrations, llm.max_positions - self.length)
        asked = Counter(n for step in range(self.steps) for n in _numbers(lessons, step))
        for number, times in asked.items():
            others, text = lessons[number]
            found += sizes.operations(len(others), [(0, len(text))], FORWARD)
            student = sizes.layers.operations(len(text) - 1, FROZEN, before)
            found += times * (student + 4 * head * len(text))
            # The teacher's logits are kept while steps ask for the same.
            found += (times if len(lessons) > QUERIES else 1) * 2 * head * len(text)
        return found

    def _trained(
        self, llm: FrozenLLM, start: KeyValueContexts, lessons: Sequence[Sequence[Lesson]]
    ) -> KeyValueContexts:
        """Return contexts as they are when they have been trained, each on its own lessons."""
        from dataclasses import replace

        import torch

        from mend.models.padding import to_device

        longest, layers = start.keys[0].shape[2], len(start.keys)
        sinks = torch.tensor([longest - n + max(1, start.prefix) for n in start.lengths])
        free = (torch.arange(longest) >= sinks[:, None])[:, None, :, None].to(llm.device)
        with torch.no_grad():
            taught = [_taught(llm, of_set, self.steps) for of_set in lessons]
        # In float32: the steps are too small for 16 bits.
        first = (*start.keys, *start.values, start.last_state)
        parts = [part.detach().float().clone().requires_grad_() for part in first]

        def contexts() -> KeyValueContexts:
            cast = [part.to(llm.dtype) for part in parts]
            keys, values, state = cast[:layers], cast[layers:-1], cast[-1]
            return replace(start, keys=keys, values=values, last_state=state)

        adam = torch.optim.Adam(parts, lr=self.learning_rate)
        asked: list[tuple[int, int]] = []
        for step in range(self.steps if any(lessons) else 0):
            before = asked
            asked = [(i, n) for i, of_set in enumerate(lessons) for n in _numbers(of_set, step)]
            if asked != before:  # sets of no more than QUERIES have the same ones in each step
                owner, texts = [i for i, _ in asked], [lessons[i][n].text for i, n in asked]
                counts = [owner.count(i) for i in range(len(lessons))]
                shares = [
                    1 / (counts[i] * len(text))
                    for i, text in zip(owner, texts, strict=True)
                    for _ in text
                ]
                shares = to_device(torch.tensor(shares), llm.device)
                with torch.no_grad():
                    goal = llm.logits(torch.cat([taught[i][n] for i, n in asked])).softmax(-1)
            with torch.enable_grad():
                loss = _cross_entropy(llm, contexts(), texts, owner, goal, shares)
                adam.zero_grad()
                loss.backward()
            for part in parts[:-1]:
                part.grad.mul_(free)
            adam.step()
        with torch.no_grad():
            return contexts()


class Lesson(NamedTuple):
    """A demonstration's tokens, x and y, and those of the others."""

    others: list[int]
    text: list[int]


def _lessons(tokens: Sequence[int], room: int) -> list[Lesson]:
    """Return what each demonstration teaches; room: how many tokens a text may have."""
    from mend.data.demonstrations import pairs_of

    texts = [[*x, *y] for x, y in pairs_of(tokens)]
    if len(texts) == 1:
        return []
    return [
        Lesson([token for other in texts[:i] + texts[i + 1 :] for token in other], text[:room])
        for i, text in enumerate(texts)
        if text and room > 0
    ]


def _numbers(lessons: Sequence[Lesson], step: int) -> list[int]:
    """Return the lessons of a step."""
    few = min(QUERIES, len(lessons))
    return [number % len(lessons) for number in range(step * few, (step + 1) * few)]


def _taught(llm: FrozenLLM, lessons: Sequence[Lesson], steps: int) -> list[Tensor]:
    """Return the teacher's states, (tokens, width) of each lesson that some step needs."""
    from mend.models.frozen_llm import Rows

    found: list[Tensor] = []
    needed = lessons[: steps * QUERIES]
    for first in range(0, len(needed), AT_ONCE):
        others, texts = zip(*needed[first : first + AT_ONCE], strict=True)
        rows = Rows(range(len(texts)), [[] for _ in texts], texts)
        states = llm.states(llm.token_context(others), rows)
        found += [row[: len(text)] for row, text in zip(states, texts, strict=True)]
    return found


def _cross_entropy(
    llm: FrozenLLM,
    contexts: KeyValueContexts,
    texts: Sequence[Sequence[int]],
    owner: Sequence[int],
    goal: Tensor,
    shares: Tensor,
) -> Tensor:
    """Return the loss of texts after their owners' contexts, which has the gradient of the KL.

    goal: the teacher's probabilities, (tokens, vocabulary); shares: of each token in the loss.
    """
    import torch

    from mend.models.frozen_llm import Rows
    from mend.models.padding import indices

    states = llm.states(contexts, Rows(owner, [[] for _ in texts], texts))
    width = states.shape[1]
    places = [row * width + place for row, text in enumerate(texts) for place in range(len(text))]
    logits = llm.logits(states.flatten(0, 1)[indices(places, llm.device)])
    return torch.nn.functional.cross_entropy(logits, goal, reduction="none") @ shares
