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


def test_segments_hold_as_many_whole_demonstrations_as_fit() -> None:
    made = Demonstrations([([n] * 4, [n]) for n in range(8)])
    assert list(map(len, segments(made, 9, 5))) == [5] * 8
    assert list(map(len, segments(made, 9, 14))) == [10] * 4
    assert list(map(len, segments(made, 9, 16))) == [15, 15, 10]
    assert segments(made, 1, 100) == [made]
    assert segments(made, 2, 14) == [made[:10], made[10:20]]


def test_what_is_longer_than_a_segment_is_cut() -> None:
    text = list(range(10))
    assert segments(text, 3, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert segments(text, 2, 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert segments(text, 1, 100) == [text]
    assert segments([], 3, 100) == [[]]
    made = Demonstrations([([1], [2]), ([3] * 8, [4]), ([5], [6])])
    assert segments(made, 9, 4) == [[1, 2], [3, 3, 3, 3], [3, 3, 3, 3], [4, 5, 6]]
