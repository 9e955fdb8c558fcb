"""Queries with their options as packed trees: the scores of plain rows."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, VOCABULARY, build, random_llm, random_tokens
from transformers import AutoModelForCausalLM, GPTNeoConfig, PretrainedConfig, Qwen2Config

from mend.data.items import MultipleChoiceItem
from mend.evaluation.scoring import score_items
from mend.models.frozen_llm import FrozenLLM
from mend.models.kernels.tree_attention import can_take_trees, collate_trees, pack_trees
from mend.models.loading import frozen_llm

TREE = ([1, 2], [[3, 4, 5], [6], [7, 8]])  # 2 + 2 + 0 + 1 tokens are inputs


def test_a_row_has_neighbours_of_one_owner_that_fit() -> None:
    assert pack_trees([TREE] * 4, [0, 0, 0, 0], width=10) == [[0, 1], [2, 3]]
    assert pack_trees([TREE] * 4, [0, 0, 0, 0], width=9) == [[0], [1], [2], [3]]
    assert pack_trees([TREE] * 4, [0, 0, 0, 0], width=15) == [[0, 1, 2], [3]]
    assert pack_trees([TREE] * 4, [0, 1, 1, 0], width=100) == [[0], [1, 2], [3]]
    assert pack_trees([TREE] * 2, [5, 5], width=0) == [[0], [1]]


def test_what_each_token_sees_and_predicts() -> None:
    rows = collate_trees([[TREE, ([9], [[1], [2, 3]])], [([5], [[6]])]], torch.device("cpu"))
    assert rows.tokens.tolist() == [[1, 2, 3, 4, 7, 9, 2], [5, 0, 0, 0, 0, 0, 0]]
    assert rows.position_ids[0].tolist() == [0, 1, 2, 3, 2, 0, 1]
    seen = [[j for j in range(7) if rows.visible[0, i, j]] for i in range(7)]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [5, 6]]
    assert rows.visible[1, 0].tolist() == [True] + [False] * 6
    assert rows.visible.any(2).all(), "a token that sees nothing has no attention"
    where = list(zip(rows.row.tolist(), rows.place.tolist(), strict=True))
    predicted = [
        (option, where[state], target)
        for option, state, target in zip(
            rows.option.tolist(), rows.state.tolist(), rows.target.tolist(), strict=True
        )
    ]
    assert predicted == [
        *[(0, (0, 1), 3), (0, (0, 2), 4), (0, (0, 3), 5), (1, (0, 1), 6)],
        *[(2, (0, 1), 7), (2, (0, 4), 8)],
        *[(3, (0, 5), 1), (4, (0, 5), 2), (4, (0, 6), 3)],
        (5, (1, 0), 6),
    ]
    assert len(where) == len(set(where)), "a state that predicts two tokens is there once"


def many_items() -> list[MultipleChoiceItem]:
    """Contexts of several lengths, and enough queries of each for rows of several trees."""
    made = []
    for context, length in enumerate((38, 30, 0)):
        shown = random_tokens(length, 3 + context)
        for index in range(6):
            options = [random_tokens(n, 50 + n + index) for n in (2, 1, 4)[: 2 + index % 2]]
            query = random_tokens(2 + index % 3, 100 + 10 * context + index)
            made.append(MultipleChoiceItem(context, shown, query, options))
    return made


def one_by_one(llm: FrozenLLM, items: list[MultipleChoiceItem]) -> list[list[float]]:
    """Return each option's mean log-probability by a forward pass of its own."""
    found = []
    for item in items:
        before = [*item.demonstrations, *item.query]
        scores = []
        for option in item.options:
            with torch.no_grad():
                logits = llm.model(torch.tensor([[*before, *option]])).logits[0].log_softmax(-1)
            places = range(len(before) - 1, len(before) + len(option) - 1)
            values = [logits[i, token].item() for i, token in zip(places, option, strict=True)]
            scores.append(sum(values) / len(values))
        found.append(scores)
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", sorted(CONFIGURATIONS))
def test_scores_are_those_of_single_rows(architecture: str, attention: str, monkeypatch) -> None:
    llm = random_llm(architecture)
    llm.model.set_attn_implementation(attention)
    assert llm.takes_trees
    assert can_take_trees(llm)
    method = build(llm, "vanilla-icl")
    items = many_items()
    found = score_items(llm, method, items)
    expected = one_by_one(llm, items)
    monkeypatch.setenv("MEND_KERNELS", "0")
    rows = score_items(llm, method, items)
    for trees, plain, row in zip(found, expected, rows, strict=True):
        assert trees == pytest.approx(plain, abs=1e-4)
        assert trees == pytest.approx(row, abs=1e-4)


def test_without_a_context() -> None:
    llm = random_llm()
    items = [MultipleChoiceItem(0, [], q.query, q.options) for q in many_items()]
    found = score_items(llm, build(llm, "zero-shot"), items)
    for trees, plain in zip(found, one_by_one(llm, items), strict=True):
        assert trees == pytest.approx(plain, abs=1e-4)


def test_more_states_than_one_batch_of_logits() -> None:
    llm = random_llm()
    shown, options = random_tokens(20, 1), [random_tokens(n, 50 + n) for n in (2, 4, 4, 3)]
    items = [MultipleChoiceItem(0, shown, random_tokens(3, seed), options) for seed in range(80)]
    found = score_items(llm, build(llm, "vanilla-icl"), items)
    for scores, expected in zip(found, one_by_one(llm, items), strict=True):
        assert scores == pytest.approx(expected, abs=1e-4)


def test_a_row_of_the_mask_starts_where_a_gpu_reads_it_without_a_copy() -> None:
    llm = random_llm()
    forward, strides = llm.body.forward, []

    def noting(**given):
        if given.get("attention_mask") is not None and given["attention_mask"].dim() == 4:
            strides.append(given["attention_mask"].stride())
        return forward(**given)

    llm.body.forward = noting
    score_items(llm, build(llm, "vanilla-icl"), many_items()[:12])
    assert strides
    assert all(one % 8 == 0 for found in strides for one in found[:-1])
    assert all(found[-1] == 1 for found in strides)


def local_attention() -> PretrainedConfig:
    """A GPT-Neo that attends to four tokens of the row, whatever their positions."""
    return GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        attention_types=[[["local"], 2]],
        window_size=4,
        max_position_embeddings=96,
    )


def sliding_window() -> PretrainedConfig:
    """A Qwen2 whose mask has a window."""
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=0,
    )


@pytest.mark.parametrize("configuration", [local_attention, sliding_window])
def test_llms_that_measure_distance_in_a_row_get_plain_rows(configuration) -> None:
    torch.manual_seed(0)
    llm = frozen_llm(AutoModelForCausalLM.from_config(configuration()), tokenizer=None)
    with torch.no_grad():
        for parameter in llm.model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    assert not can_take_trees(llm)
    items = many_items()
    found = score_items(llm, build(llm, "vanilla-icl"), items)
    for rows, plain in zip(found, one_by_one(llm, items), strict=True):
        assert rows == pytest.approx(plain, abs=1e-4)
