"""Perturbed demonstrations: what is left, and that a sample depends on its row alone."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from mend.configuration.conditions import PERTURBATIONS
from mend.data.layout import Row
from mend.data.perturbation import perturb, perturb_rows
from mend.errors import UserError

OPTIONS = ["red", "blue", "green"]


def test_a_part_is_left_out():
    assert perturb("x", "red", OPTIONS, "no-label", (0, 1)) == ("x", None)
    assert perturb("x", "red", OPTIONS, "no-input", (0, 1)) == (None, "red")


def labels(kind: str, options: list[str], seed: int = 0, count: int = 3000) -> list[str]:
    found = [perturb("x", "red", options, kind, (seed, "task", 13, row)) for row in range(count)]
    assert {x for x, _ in found} == {"x"}
    return [y for _, y in found]


@pytest.mark.parametrize(
    ("kind", "options", "possible"),
    [
        ("random-label", OPTIONS, {"red", "blue", "green"}),
        ("wrong-label", OPTIONS, {"blue", "green"}),
        # An option that is there twice is as likely as the others.
        ("random-label", ["blue", "red", "blue"], {"red", "blue"}),
        ("wrong-label", ["blue", "red", "blue", "green", "red"], {"blue", "green"}),
    ],
)
def test_labels_are_sampled_evenly(kind, options, possible):
    counts = Counter(labels(kind, options))
    assert counts.keys() == possible
    share = 3000 / len(possible)
    assert all(abs(count - share) < 5 * share**0.5 for count in counts.values())


def test_a_sample_depends_on_its_key_and_kind_alone():
    first = labels("random-label", OPTIONS, count=50)
    assert labels("random-label", OPTIONS, count=50) == first
    assert labels("random-label", OPTIONS, seed=1, count=50) != first
    rows = [Row(f"x {n}", "red", OPTIONS) for n in range(50)]
    arguments = ("random-label", 0, "task", 13, "train")
    perturbed = perturb_rows(rows, *arguments)
    assert perturb_rows(rows[:7], *arguments) == perturbed[:7]
    for changed in range(1, 5):
        other = list(arguments)
        other[changed] = (None, 1, "other", 21, "pool")[changed]
        assert perturb_rows(rows, *other) != perturbed
    wrong = [y for _, y in perturb_rows(rows, "wrong-label", *arguments[1:])]
    two = [Row(f"x {n}", "red", ["red", "blue"]) for n in range(50)]
    assert "red" not in wrong
    assert {y for _, y in perturb_rows(two, "wrong-label", *arguments[1:])} == {"blue"}


def test_samples_are_the_same_on_every_machine():
    # A change here changes results: it must be meant.
    expected = "green blue green green green green blue green"
    assert labels("wrong-label", OPTIONS, count=8) == expected.split()


def test_a_row_without_a_wrong_option_keeps_its_label_and_is_counted(caplog):
    rows = [Row("a", "red", ["red", "red"]), Row("b", "red", OPTIONS)]
    with caplog.at_level(logging.WARNING, logger="mend"):
        perturbed = perturb_rows(rows, "wrong-label", 0, "paint", 13, "train")
    assert perturbed[0] == ("a", "red")
    assert perturbed[1][1] != "red"
    assert "task paint, seed 13: 1 of 2 train rows have no wrong option" in caplog.text
    caplog.clear()
    perturb_rows(rows, "random-label", 0, "paint", 13, "train")
    assert not caplog.text


def test_an_unknown_perturbation_is_refused():
    with pytest.raises(UserError, match="perturbation 'no-options': there are no-label, no-input"):
        perturb("x", "red", OPTIONS, "no-options", ())
    assert len(PERTURBATIONS) == 4
