"""Cartridge: keys and values come closer to the teacher, as a plain loop over one set does it."""

from __future__ import annotations

import pytest
import torch
from helpers.architectures import WITH_KEY_VALUES, both, installed, words
from helpers.models import build, random_llm
from torch import Tensor

from mend.data.demonstrations import Demonstrations
from mend.models.frozen_llm import FrozenLLM, Rows

LENGTH = 5
#: Of several sizes and numbers; the second set is shorter than a cartridge.
SETS = [
    Demonstrations([(words(4, 1), words(2, 2)), (words(3, 3), words(1, 4)), ([], words(2, 5))]),
    Demonstrations([(words(2, 6), words(1, 7)), (words(1, 8), [])]),
    Demonstrations([(words(2, seed), words(1, 50 + seed)) for seed in range(18)]),
]


def trained(llm: FrozenLLM, sets, **settings):
    """Return the cartridges of some sets."""
    method = build(llm, "cartridge", length=LENGTH, **settings)
    with torch.no_grad():  # as all that makes contexts is called
        return method.contexts(llm, sets)


def trained_by_hand(
    llm: FrozenLLM, prefix: tuple[int, ...], shown: Demonstrations, steps: int
) -> list[Tensor]:
    """Return a cartridge's keys and values: one row and one pass at a time."""
    ids = [*prefix, *shown[:LENGTH]]
    with torch.no_grad():
        cache = llm.model(torch.tensor([ids]), use_cache=True).past_key_values
    sizes = [x + y for x, y in shown.sizes]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    texts = [shown[a : a + n] for a, n in zip(starts, sizes, strict=True)]
    frozen = max(1, len(prefix))
    fixed, parts = [], []
    for name in ("keys", "values"):
        for layer in cache.layers:
            fixed.append(getattr(layer, name)[:, :, :frozen])
            parts.append(getattr(layer, name)[:, :, frozen:].clone().requires_grad_())
    adam = torch.optim.Adam(parts, lr=0.05)
    for step in range(steps):
        few = min(4, len(texts))
        losses = []
        for number in range(step * few, (step + 1) * few):
            number %= len(texts)
            text = texts[number]
            others = [t for i, other in enumerate(texts) if i != number for t in other]
            read = torch.tensor([[*prefix, *others, *text]])
            with torch.no_grad():
                teacher = llm.model(read).logits[0, -len(text) - 1 : -1].log_softmax(-1)
            student = after(
                llm, [torch.cat(two, 2) for two in zip(fixed, parts, strict=True)], text
            )
            # Keys and values have no part in predicting a text's first token.
            kl = (teacher.exp()[1:] * (teacher[1:] - student)).sum() / len(text)
            losses.append(kl)
        adam.zero_grad()
        torch.stack(losses).mean().backward()
        adam.step()
    return [torch.cat(two, 2).detach() for two in zip(fixed, parts, strict=True)]


def after(llm: FrozenLLM, parts: list[Tensor], text: list[int]) -> Tensor:
    """Return the log-probabilities of a text's tokens but the first, by the LLM's own cache."""
    from transformers import DynamicCache

    cache, layers = DynamicCache(config=llm.model.config), len(parts) // 2
    for layer in range(layers):
        cache.update(parts[layer], parts[layers + layer], layer)
    length = parts[0].shape[2]
    places = torch.arange(length, length + len(text))[None]
    read = llm.model(torch.tensor([text]), past_key_values=cache, position_ids=places)
    return read.logits[0, :-1].log_softmax(-1)


@pytest.mark.parametrize("prefix", [(), (1,)])
@pytest.mark.parametrize("name", installed(WITH_KEY_VALUES))
def test_a_set_is_trained_as_by_a_plain_loop(name: str, prefix: tuple[int, ...]) -> None:
    llm, _ = both(name, prefix)
    contexts = trained(llm, SETS, steps=3, learning_rate=0.05)
    lengths = [len(prefix) + length for length in (LENGTH, 4, LENGTH)]
    assert contexts.lengths == contexts.positions == lengths
    for number in (0, 2):
        expected = trained_by_hand(llm, prefix, SETS[number], 3)
        found = contexts.select([number])
        for mine, right in zip((*found.keys, *found.values), expected, strict=True):
            torch.testing.assert_close(mine, right, atol=5e-3, rtol=0)


def divergence(llm: FrozenLLM, sets, contexts, texts: list[list[int]]) -> float:
    """Return the mean KL from the LLM after all demonstrations to it after their contexts."""
    owner = [number for number in range(len(sets)) for _ in texts]
    rows = Rows(owner, [[] for _ in owner], texts * len(sets))
    with torch.no_grad():
        teacher, student = (
            llm.logits(llm.states(each, rows)).log_softmax(-1)
            for each in (llm.token_context(sets), contexts)
        )
    return float((teacher.exp() * (teacher - student)).sum(-1).mean())


@pytest.mark.parametrize("name", ["gpt2", "llama 3", "qwen3"])
def test_text_that_it_was_not_trained_on_is_predicted_more_like_the_teacher(name: str) -> None:
    llm, _ = both(name)
    sets = [
        Demonstrations([(words(3, seed), words(1, 500 + seed)) for seed in range(first, first + 8)])
        for first in range(0, 400, 100)
    ]
    start, some, more = (trained(llm, sets, steps=steps) for steps in (0, 10, 40))
    held_out = [words(4, 900 + seed) for seed in range(8)]
    found = [divergence(llm, sets, contexts, held_out) for contexts in (start, some, more)]
    assert found[2] < 0.95 * found[1] < 0.95**2 * found[0]
    # The state that predicts the first token is part of it.
    firsts = [divergence(llm, sets, contexts, [[7]]) for contexts in (start, more)]
    assert firsts[1] < 0.9 * firsts[0]


@pytest.mark.parametrize("at_once", [10**6, 1])
@pytest.mark.parametrize("name", ["gpt2", "llama 3"])
def test_sets_that_are_trained_together_are_what_each_is_alone(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, _ = both(name)
    monkeypatch.setattr(type(llm), "logits_batch_size", at_once)
    together = trained(llm, SETS, steps=5)
    again = trained(llm, SETS, steps=5)
    for number, shown in enumerate(SETS):
        alone, of_all, same = (
            (*one.keys, *one.values, one.last_state)
            for one in (
                trained(llm, [shown], steps=5),
                together.select([number]),
                again.select([number]),
            )
        )
        for mine, right, repeated in zip(of_all, alone, same, strict=True):
            torch.testing.assert_close(mine, right, atol=2e-3, rtol=0)
            assert torch.equal(mine, repeated)


def test_a_demonstration_alone_teaches_nothing() -> None:
    llm, _ = both("gpt2")
    alone = Demonstrations([(words(6, 1), words(2, 2))])
    for shown in (alone, list(alone)):
        contexts = trained(llm, [shown, SETS[0]], steps=2).select([0])
        start = llm.key_values(llm.token_context([alone[:LENGTH]]))
        for mine, first in zip(contexts.keys, start.keys, strict=True):
            torch.testing.assert_close(mine, first)


def test_the_llm_is_left_as_it_was_and_16_bits_are_trained_in_32() -> None:
    llm = random_llm("llama")
    llm.model.bfloat16()
    before = {name: value.clone() for name, value in llm.model.state_dict().items()}
    start, more = (trained(llm, SETS[:1], steps=steps, learning_rate=1e-4) for steps in (0, 40))
    assert more.keys[0].dtype == more.last_state.dtype == torch.bfloat16
    # 40 steps of a size that bfloat16 would round away.
    assert all(not torch.equal(a, b) for a, b in zip(start.values, more.values, strict=True))
    after_it = llm.model.state_dict()
    assert all(torch.equal(value, after_it[name]) for name, value in before.items())
    assert all(value.grad is None for value in llm.model.parameters())
