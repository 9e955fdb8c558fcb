"""Demonstrations joined, one by one, and in segments."""

from __future__ import annotations

import pickle

import pytest

from mend.data.demonstrations import Demonstrations, pairs_of, segments

PAIRS = [([1, 2, 3], [4]), ([5, 6], [7, 8]), ([], [9]), ([10], [])]


def test_they_are_their_tokens_and_know_their_boundaries() -> None:
    made = Demonstrations(PAIRS)
    assert made == list(range(1, 11))
    assert pairs_of(made) == PAIRS
    again = pickle.loads(pickle.dumps(made))  # as a worker process hands them over
    assert (again, pairs_of(again)) == (made, PAIRS)
    assert pairs_of([1, 2]) == [([1, 2], [])]
    assert pairs_of([]) == pairs_of(Demonstrations()) == []


@pytest.mark.parametrize("count", range(12))
def test_the_last_tokens_keep_the_boundaries_that_are_left(count: int) -> None:
    kept = Demonstrations(PAIRS).last(count)
    assert kept == list(range(1, 11))[max(0, 10 - count) :]
    assert [token for x, y in pairs_of(kept) for token in (*x, *y)] == kept
    whole = [pair for pair in PAIRS if pair in pairs_of(kept)]
    assert pairs_of(kept)[len(pairs_of(kept)) - len(whole) :] == whole


def test_segments_hold_whole_demonstrations_in_their_order() -> None:
    made = Demonstrations([([n] * 4, [n]) for n in range(8)])
    for most in (1, 2, 3, 4, 8, 20):
        found = segments(made, most, longest=100)
        assert len(found) == min(most, 8)
        assert [token for part in found for token in part] == made
        assert all(part.count(token) == 5 for part in found for token in part)
        assert max(map(len, found)) - min(map(len, found)) <= 10


def test_a_text_is_cut_into_equal_segments() -> None:
    text = list(range(10))
    assert segments(text, 3, 100) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert segments(text, 1, 100) == [text]
    assert segments([], 3, 100) == [[]]


def test_segments_are_no_longer_than_asked_for() -> None:
    made = Demonstrations([([1] * 7, [2]), ([3] * 30, [4]), ([5] * 3, [6])])
    for most, longest in ((2, 10), (3, 16), (8, 9)):
        found = segments(made, most, longest)
        assert len(found) <= most
        assert max(map(len, found)) <= longest
        joined = [token for part in found for token in part]
        assert joined == made[: len(joined)]
    assert [token for part in segments(made, 9, 9) for token in part] == made
