"""All keys and values kept: what is scored is vanilla in-context learning, whatever the LLM."""

from __future__ import annotations

import pytest
from helpers.architectures import TOKEN_ITEMS, WITH_KEY_VALUES, both, installed
from helpers.models import build

from mend.evaluation.scoring import score_items
from mend.models.contexts import KeyValueContexts


@pytest.mark.parametrize("prefix", [(), (1,)])
@pytest.mark.parametrize("name", installed(WITH_KEY_VALUES))
def test_scores_are_those_of_vanilla_icl(name: str, prefix: tuple[int, ...]) -> None:
    llm, plain = both(name, prefix)
    found = score_items(llm, build(llm, "kv-cache"), TOKEN_ITEMS)
    for item, scores in zip(TOKEN_ITEMS, found, strict=True):
        assert scores == pytest.approx(plain.scores(item, prefix, vectors=False), abs=1e-4)


def test_it_is_kept_as_keys_and_values_of_every_layer() -> None:
    llm, _ = both("llama 3")
    shown = [item.demonstrations for item in TOKEN_ITEMS[:2]]
    contexts = build(llm, "kv-cache").contexts(llm, shown)
    assert isinstance(contexts, KeyValueContexts)
    assert contexts.lengths == contexts.positions == [len(tokens) for tokens in shown]
    layers, heads, size, keys_and_values, float32 = 2, 2, 8, 2, 4
    each = layers * heads * size * keys_and_values * float32
    assert contexts.nbytes == [each * len(tokens) for tokens in shown]
