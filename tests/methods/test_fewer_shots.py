"""Fewer shots: whole demonstrations, as many as fit."""

from __future__ import annotations

import pytest
from helpers.models import build, random_llm

from mend.data.demonstrations import Demonstrations
from mend.data.items import MultipleChoiceItem
from mend.evaluation.scoring import score_items

SHOWN = Demonstrations([([1, 2, 3], [4]), ([5, 6], [7]), ([8], [9])])


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (100, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (9, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (8, [1, 2, 3, 4, 5, 6, 7]),
        (6, [1, 2, 3, 4]),
        (4, [1, 2, 3, 4]),
        (3, [2, 3, 4]),
        (1, [4]),
    ],
)
def test_whole_demonstrations_stay_and_of_too_long_a_first_its_end(keep, expected) -> None:
    llm = random_llm()
    method = build(llm, "fewer-shots", keep=keep)
    found = method.contexts(llm, [SHOWN, Demonstrations()])
    assert found.tokens == [expected, []]
    item = MultipleChoiceItem(0, SHOWN, [1], [[2], [3, 4]])
    plain = MultipleChoiceItem(0, expected, [1], [[2], [3, 4]])
    icl = score_items(llm, build(llm, "vanilla-icl"), [plain])
    assert score_items(llm, method, [item]) == icl
