"""Groups of demonstrations: each distilled by itself, their vectors joined in order."""

from __future__ import annotations

import pytest
import torch
from helpers.models import build, built, random_distiller, random_llm, random_tokens

from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.grouping import GroupedMethod
from mend.evaluation.scoring import score_items
from mend.methods.built import BuiltMethod
from mend.methods.mend import Mend
from mend.models.frozen_llm import FrozenLLM

LENGTH = 3


@pytest.fixture(scope="module")
def llm() -> FrozenLLM:
    return random_llm()


@pytest.fixture
def given() -> list[list[int]]:
    """The lengths of what the distiller is given at once, call by call."""
    return []


@pytest.fixture
def plain(llm: FrozenLLM, given) -> BuiltMethod:
    """MEND around a random distiller."""

    class Distilling(Mend):
        def trained(self, llm, run):
            return {"distiller": random_distiller(llm, length=LENGTH)}

        def contexts(self, llm, trained, demonstrations):
            given.append([len(ids) for ids in demonstrations])
            return super().contexts(llm, trained, demonstrations)

    return built(llm, Distilling(length=LENGTH))


@pytest.fixture
def grouped(plain: BuiltMethod) -> GroupedMethod:
    return GroupedMethod(plain)


A, B, C, D = (random_tokens(length, length) for length in (5, 9, 2, 7))


def ask(demonstrations: list, context: int = 0) -> MultipleChoiceItem:
    options = [random_tokens(2, 91), random_tokens(1, 92)]
    return MultipleChoiceItem(context, demonstrations, random_tokens(4, 90), options)


def test_one_group_of_all_is_as_without_groups(llm, plain, grouped) -> None:
    expected = plain.contexts(llm, [A, B, C])
    found = grouped.contexts(llm, [[A], [B], [C]])
    assert torch.equal(found.vectors, expected.vectors)
    assert found.lengths == expected.lengths
    without = score_items(llm, plain, [ask(ids, n) for n, ids in enumerate((B, A, C))])
    assert without == score_items(llm, grouped, [ask([ids], n) for n, ids in enumerate((B, A, C))])


def test_groups_are_joined_in_order_and_do_not_see_each_other(llm, plain, grouped) -> None:
    found = grouped.contexts(llm, [[A, B, C], [C, A, D]])
    assert found.vectors.shape == (2, 3 * LENGTH, llm.width)
    assert found.lengths == [3 * LENGTH] * 2
    for row, groups in enumerate(([A, B, C], [C, A, D])):
        for place, ids in enumerate(groups):
            alone = plain.contexts(llm, [ids]).vectors[0]
            part = found.vectors[row, place * LENGTH : (place + 1) * LENGTH]
            assert torch.allclose(part, alone, atol=1e-5)
    assert not torch.allclose(found.vectors[0, :LENGTH], found.vectors[0, LENGTH:-LENGTH])


def test_the_order_of_groups_matters_to_the_llm(llm, grouped) -> None:
    first, second = score_items(llm, grouped, [ask([A, B]), ask([B, A], 1)])
    assert first != pytest.approx(second, abs=1e-3)


def test_a_batch_is_as_single_contexts(llm, grouped) -> None:
    batch = [[A], [B, C, D], [C, D], [[]], [D, []]]
    found = grouped.contexts(llm, batch)
    assert found.vectors.shape == (5, 3 * LENGTH, llm.width)
    assert found.lengths == [3, 9, 6, 3, 6]
    for row, groups in enumerate(batch):
        alone = grouped.contexts(llm, [groups])
        length = found.lengths[row]
        assert alone.lengths == [length]
        assert torch.allclose(found.vectors[row, :length], alone.vectors[0], atol=1e-5)
        assert not found.vectors[row, length:].any()
    items = [ask(groups, n) for n, groups in enumerate(batch)]
    together = score_items(llm, grouped, items)
    for item, scores in zip(items, together, strict=True):
        [single] = score_items(llm, grouped, [item])
        assert scores == pytest.approx(single, abs=1e-4)


def test_no_more_sequences_at_once_than_contexts(llm, plain, grouped, given) -> None:
    grouped.contexts(llm, [[A, B, C], [D]])
    assert given == [[5, 9], [2, 7]]


def test_contexts_of_similar_length_are_read_together(llm, plain, grouped, given) -> None:
    asked = [ask(groups, n) for n, groups in enumerate(([B], [C, A], [D, B], [C]))]
    score_items(llm, grouped, asked, context_batch_size=2)
    assert given == [[2, 2], [5], [9, 7], [9]]


def test_a_method_that_does_not_distil_is_refused(llm) -> None:
    with pytest.raises(UserError, match="group: vanilla-icl does not distil"):
        GroupedMethod(build(llm, "vanilla-icl"))
