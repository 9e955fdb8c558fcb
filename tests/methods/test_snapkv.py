"""SnapKV: what the last tokens attend to stays, chosen as a loop over heads and positions does."""

from __future__ import annotations

import pytest
import torch
from helpers.architectures import (
    TOKEN_ITEMS,
    WITH_KEY_VALUES,
    both,
    installed,
    words,
)
from helpers.models import build, random_llm, use_eager_attention
from torch import Tensor

from mend.errors import UserError
from mend.evaluation.scoring import score_items

KEEP, WINDOW, KERNEL = 6, 2, 3
SHOWN = [words(14, 1), words(4, 2), words(9, 3), words(15, 4)]


def kept_by_hand(
    model: torch.nn.Module, prefix: tuple[int, ...], tokens: list[int]
) -> list[tuple[Tensor, Tensor]]:
    """Return each layer's keys and values that stay, a head and a position at a time."""
    use_eager_attention(model)
    read = model(torch.tensor([[*prefix, *tokens]]), use_cache=True, output_attentions=True)
    start, end = len(prefix), len(prefix) + len(tokens)
    layers = []
    for layer, weights in zip(read.past_key_values.layers, read.attentions, strict=True):
        keys, values = [], []
        heads = len(layer.keys[0])
        group = weights.shape[1] // heads  # heads of queries that share keys and values
        for head in range(heads):
            sharing = weights[0, head * group : (head + 1) * group]
            votes = {
                place: float(sharing[:, end - WINDOW : end, place].sum()) / group
                for place in range(start, end - WINDOW)
            }
            pooled = {
                place: sum(votes.get(place + near, 0.0) for near in (-1, 0, 1)) / KERNEL
                for place in votes
            }
            best = sorted(pooled, key=pooled.__getitem__, reverse=True)[: KEEP - WINDOW]
            stay = [*range(start), *sorted(best), *range(max(start, end - WINDOW), end)]
            if len(tokens) <= KEEP:
                stay = list(range(end))
            keys.append(layer.keys[0, head, stay])
            values.append(layer.values[0, head, stay])
        layers.append((torch.stack(keys), torch.stack(values)))
    return layers


@pytest.mark.parametrize("prefix", [(), (1,)])
@pytest.mark.parametrize("name", installed(WITH_KEY_VALUES))
@torch.no_grad()
def test_each_head_keeps_what_the_last_tokens_attend_to(name: str, prefix: tuple) -> None:
    llm, plain = both(name, prefix)
    method = build(llm, "snapkv", keep=KEEP, window=WINDOW, kernel=KERNEL)
    contexts = method.contexts(llm, SHOWN)
    start = len(prefix)
    assert contexts.lengths == [start + kept for kept in (KEEP, 4, KEEP, KEEP)]
    assert contexts.positions == [start + length for length in (14, 4, 9, 15)]
    for number, tokens in enumerate(SHOWN):
        for found in (contexts.select([number]), method.contexts(llm, [tokens])):
            for layer, kept in enumerate(kept_by_hand(plain.model, prefix, tokens)):
                torch.testing.assert_close(found.keys[layer][0], kept[0], atol=1e-4, rtol=0)
                torch.testing.assert_close(found.values[layer][0], kept[1], atol=1e-4, rtol=0)


def test_all_that_is_kept_is_vanilla_icl_and_less_is_not() -> None:
    llm = random_llm("llama")
    found, fewer = (
        score_items(llm, build(llm, "snapkv", keep=keep), TOKEN_ITEMS) for keep in (20, 5)
    )
    expected = score_items(llm, build(llm, "vanilla-icl"), TOKEN_ITEMS)
    for mine, right in zip(found, expected, strict=True):
        assert mine == pytest.approx(right, abs=1e-4)
    assert fewer != found


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"keep": 4, "window": 4}, "window: a window of 4 .* keep is 4; choose a shorter window"),
        ({"keep": 3}, "window: a window of 4 .* keep is 3"),
        ({"keep": 9, "kernel": 4}, "kernel: 4 positions have none in their middle"),
        ({"keep": 9, "window": 0}, "window"),
    ],
)
def test_what_leaves_nothing_to_choose_is_refused(settings: dict, problem: str) -> None:
    with pytest.raises(UserError, match=rf"methods\.snapkv\.{problem}") as caught:
        build(random_llm(), "snapkv", **settings)
    assert "\n" not in str(caught.value)
