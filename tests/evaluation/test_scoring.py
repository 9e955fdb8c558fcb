"""Cached, batched scoring equals one plain forward pass for each option."""

from __future__ import annotations

import pytest
import torch
from helpers.examples import items, mend_method
from helpers.models import CONFIGURATIONS, build, built, random_llm, random_tokens
from helpers.waits import Waits
from torch.utils.flop_counter import FlopCounterMode

from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.scoring import score_items
from mend.methods.built import BuiltMethod
from mend.methods.vanilla_icl import VanillaICL
from mend.models.frozen_llm import FrozenLLM


def plain_score(llm: FrozenLLM, prefix: list[int], option: list[int], score: str) -> float:
    logits = llm.model(torch.tensor([prefix + option])).logits[0].log_softmax(-1)
    where = range(len(prefix) - 1, len(prefix) + len(option) - 1)
    values = [logits[place, token].item() for place, token in zip(where, option, strict=True)]
    return sum(values) / (len(values) if score == "mean" else 1)


@pytest.mark.parametrize("architecture", sorted(CONFIGURATIONS))
@pytest.mark.parametrize("score", ["mean", "sum"])
def test_equal_to_plain_forward_passes(architecture: str, score: str) -> None:
    llm = random_llm(architecture)
    method = build(llm, "vanilla-icl")
    # Small groups: contexts and items are cut in several places.
    found = score_items(llm, method, items(), score, context_batch_size=2, item_batch_size=2)
    for item, scores in zip(items(), found, strict=True):
        prefix = [*item.demonstrations, *item.query]
        expected = [plain_score(llm, prefix, list(o), score) for o in item.options]
        assert scores == pytest.approx(expected, abs=1e-4)


def test_zero_shot_reads_the_query_alone() -> None:
    llm = random_llm()
    item = items()[4]
    alone = MultipleChoiceItem(0, [], item.query, item.options)
    [found] = score_items(llm, build(llm, "zero-shot"), [alone])
    expected = [plain_score(llm, list(item.query), list(o), "mean") for o in item.options]
    assert found == pytest.approx(expected, abs=1e-4)


def test_each_context_is_told_once_it_is_made() -> None:
    llm = random_llm()
    lengths: dict[int, int] = {}

    def note(numbers, contexts) -> None:
        lengths.update(zip(numbers, contexts.lengths, strict=True))

    method = build(llm, "vanilla-icl")
    score_items(llm, method, items(), context_batch_size=2, when_made=note)
    assert lengths == {0: 11, 1: 4, 2: 25}
    lengths.clear()
    alone = [MultipleChoiceItem(7, [], item.query, item.options) for item in items()]
    score_items(llm, build(llm, "zero-shot"), alone, when_made=note)
    assert lengths == {7: 0}


def test_options_of_one_token() -> None:
    llm = random_llm()
    item = MultipleChoiceItem(0, random_tokens(6, 1), random_tokens(3, 2), [[4], [9], [30]])
    [found] = score_items(llm, build(llm, "vanilla-icl"), [item])
    prefix = [*item.demonstrations, *item.query]
    expected = [plain_score(llm, prefix, list(o), "mean") for o in item.options]
    assert found == pytest.approx(expected, abs=1e-4)


def scarce(llm: FrozenLLM, fits: int) -> tuple[BuiltMethod, list[int]]:
    """Return a method of whose contexts only so many fit the memory, and the numbers asked for."""
    sizes = []

    class ScarceMemory(VanillaICL):
        def contexts(self, llm, trained, demonstrations):
            sizes.append(len(demonstrations))
            if len(demonstrations) > fits:
                raise torch.OutOfMemoryError
            return super().contexts(llm, trained, demonstrations)

    return built(llm, ScarceMemory()), sizes


@pytest.mark.parametrize("fits", [1, 2])
def test_where_memory_runs_out_batches_are_smaller(fits: int) -> None:
    llm = random_llm()
    expected = score_items(llm, build(llm, "vanilla-icl"), items())
    method, sizes = scarce(llm, fits)
    found = score_items(llm, method, items())
    for scores, values in zip(found, expected, strict=True):
        assert scores == pytest.approx(values, abs=1e-4)
    assert max(sizes) == 3
    assert sizes[-1] <= fits


def test_no_memory_for_one_item_is_told() -> None:
    llm = random_llm()
    with pytest.raises(UserError, match="memory ran out while one multiple-choice item was scored"):
        score_items(llm, scarce(llm, 0)[0], items())


def test_equal_items_are_scored_once() -> None:
    llm = random_llm()
    operations = []
    for asked in (items(), [*items(), *items()]):
        with FlopCounterMode(display=False) as counter:
            found = score_items(llm, build(llm, "vanilla-icl"), asked)
        operations.append(counter.get_total_flops())
    assert found[:9] == found[9:]
    assert operations[0] == operations[1]


def test_a_cache_that_is_wrong_is_done_without(caplog, monkeypatch) -> None:
    monkeypatch.setenv("MEND_KERNELS", "0")
    llm = random_llm()
    expected = score_items(llm, build(llm, "vanilla-icl"), items())
    right = llm.states_after
    llm.states_after = lambda *given: right(*given) * 1.1
    with caplog.at_level("WARNING", logger="mend"):
        found = score_items(llm, build(llm, "vanilla-icl"), items())
    assert "contexts read once give other scores than plain rows" in caplog.text
    for scores, values in zip(found, expected, strict=True):
        assert scores == pytest.approx(values, abs=1e-4)


def test_an_item_that_nothing_comes_before_is_refused() -> None:
    llm = random_llm()
    empty = MultipleChoiceItem(0, [], [], [[7, 8], [9]])
    with pytest.raises(UserError, match="nothing predicts its options' first token"):
        score_items(llm, build(llm, "zero-shot"), [empty, *items()])
    llm.prefix = [5]
    [found] = score_items(llm, build(llm, "zero-shot"), [empty])
    expected = [plain_score(llm, [5], option, "mean") for option in empty.options]
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_empty_query_is_answered_after_its_context() -> None:
    llm = random_llm()
    item = MultipleChoiceItem(3, random_tokens(6, 1), [], [[7, 8], [9]])
    found = score_items(llm, build(llm, "vanilla-icl"), [*items(), item])[-1]
    expected = [plain_score(llm, list(item.demonstrations), o, "mean") for o in item.options]
    assert found == pytest.approx(expected, abs=1e-4)


def test_more_than_the_llm_reads_is_refused() -> None:
    llm = random_llm()
    long = MultipleChoiceItem(3, random_tokens(90, 1), random_tokens(5, 2), [[7, 8], [9]])
    with pytest.raises(UserError, match="an item of 97 tokens .* longer than the 96"):
        score_items(llm, build(llm, "vanilla-icl"), [long])


def test_the_oldest_tokens_fall_off_for_each_option() -> None:
    llm = random_llm()
    context, query = random_tokens(20, 1), random_tokens(5, 2)
    item = MultipleChoiceItem(3, context, query, [[7, 8, 9], [9]], longest=18)
    found = score_items(llm, build(llm, "vanilla-icl"), [*items(), item])[-1]
    before = [*context, *query]
    expected = [plain_score(llm, before[-15:], [7, 8, 9], "mean")]
    expected.append(plain_score(llm, before[-17:], [9], "mean"))
    assert found == pytest.approx(expected, abs=1e-4)


def after_five_contexts() -> list[MultipleChoiceItem]:
    """Contexts of one length: whether a mask hides anything, transformers looks for itself."""
    made = []
    for context in range(5):
        shown = random_tokens(12, context)
        for index in range(5):
            query = random_tokens(2 + index, 20 + 5 * context + index)
            made.append(MultipleChoiceItem(context, shown, query, [[4], [5, 6, 7]]))
    return made


@pytest.mark.parametrize("kernels", ["tree_attention", "0"])
@pytest.mark.parametrize("name", ["vanilla-icl", "mend"])
@pytest.mark.parametrize("architecture", sorted(CONFIGURATIONS))
def test_a_gpu_is_waited_for_once_a_group(architecture, name, kernels, monkeypatch) -> None:
    monkeypatch.setenv("MEND_KERNELS", kernels)
    llm = random_llm(architecture)
    method = mend_method(llm) if name == "mend" else build(llm, name)
    asked = after_five_contexts()

    def waits(contexts: int, items: int) -> list[str]:
        with Waits() as found:
            score_items(llm, method, asked, context_batch_size=contexts, item_batch_size=items)
        return found.names

    # The first group and the last are compared with plain rows, whose scores are fetched, too.
    assert waits(1, 5) == waits(1, 2) == ["tolist"] * (5 + 2 * 2)
    assert waits(5, 2) == ["tolist"] * (1 + 2)


def test_rows_that_hold_their_contexts_are_waited_for_once_a_group() -> None:
    llm = random_llm()
    llm.shares_contexts = False
    asked = [*items(), MultipleChoiceItem(3, random_tokens(20, 1), [5], [[7, 8], [9]], longest=18)]
    with Waits() as found:
        score_items(llm, build(llm, "vanilla-icl"), asked, context_batch_size=2, item_batch_size=16)
    assert found.names == ["tolist"] * 2
