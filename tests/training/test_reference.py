"""Losses and gradients of training against loops over single queries, for each architecture."""

from __future__ import annotations

import statistics

import pytest
import torch
from helpers.architectures import ARCHITECTURES, installed
from helpers.learning import (
    CASES,
    EXAMPLES,
    WEIGHTS,
    Case,
    assert_equal,
    difference_of,
    expected,
    found,
    prepared,
    step,
    weighted,
)
from helpers.models import OBJECTIVE

from mend.errors import UserError


@pytest.mark.parametrize("stage", EXAMPLES)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_references(name: str, stage: str) -> None:
    """In float64 the reference has no rounding of its own: float32's is 1e-6 of a gradient."""
    ready = prepared(CASES[name], torch.float64)
    right = expected(ready.references[torch.float64], stage)
    assert_equal(found(ready, stage), right)
    right.losses["loss"] = float(weighted(right.losses, WEIGHTS[stage]))
    for micro_batch_size in (1, 2, None):
        got, norm = step(ready, stage, micro_batch_size)
        assert_equal(got, right)
        assert norm == pytest.approx(right.norm, rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "t5", "t5, query in the encoder"])
@pytest.mark.parametrize(
    "change",
    [
        {"distill_first_token": False},
        {"distill_in_finetuning": "input"},
        {"prediction_loss": "sum"},
    ],
)
def test_what_losses_cover(name: str, change: dict) -> None:
    ready = prepared(CASES[name], torch.float64)
    for stage in EXAMPLES:
        objective = OBJECTIVE.model_copy(update=change)
        right = expected(ready.references[torch.float64], stage, objective)
        assert_equal(found(ready, stage, objective), right)


@pytest.mark.parametrize("name", ["gpt2", "gemma 2", "t5"])
def test_chunks_of_logits_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepared(CASES[name], torch.float64)
    monkeypatch.setattr("mend.models.frozen_llm.LOGITS_AT_ONCE", 7 * ready.llm.vocabulary)
    right = expected(ready.references[torch.float64], "finetune")
    assert_equal(found(ready, "finetune"), right)


def test_a_window_is_seen() -> None:
    """A Mistral without one has other losses: rows are longer than it."""
    ready = prepared(CASES["mistral, window"], torch.float64)
    reference = ready.references[torch.float64]
    right = expected(reference, "finetune")
    reference.llm.config.sliding_window = None
    without = expected(reference, "finetune")
    assert without.losses["distill"] != pytest.approx(right.losses["distill"], rel=1e-2)


@pytest.mark.parametrize("distilled_in", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_in_bfloat16_as_near_as_a_plain_loop(name: str, distilled_in: torch.dtype) -> None:
    """The LLM in bfloat16, the distiller too or not; the reference has the same weights in float64.

    A batch's losses to a hundredth. A gradient's difference, of the batch and of each example, in
    the geometric mean no more than half as much again as that of a plain loop in bfloat16.
    """
    half = torch.bfloat16
    ready = prepared(CASES[name], torch.float64, half, dtype=half, distilled_in=distilled_in)
    exact, plain = (ready.references[precision] for precision in (torch.float64, half))
    ratios = []
    for stage, batch in EXAMPLES.items():
        for examples in (batch, *([example] for example in batch)):
            right = expected(exact, stage, examples=examples)
            got = found(ready, stage, examples=examples)
            rounded = expected(plain, stage, examples=examples)
            ratios.append(difference_of(got, right) / difference_of(rounded, right))
            if examples is batch:
                assert got.losses == pytest.approx(right.losses, rel=1e-2)
    assert statistics.geometric_mean(ratios) <= 1.5


@pytest.mark.parametrize("name", installed(ARCHITECTURES))
def test_every_architecture_trains_right_or_is_refused_by_name(name: str) -> None:
    """Where float32 itself is further away than 1e-5, as in a recurrence, twice as far as it is."""
    architecture = ARCHITECTURES[name]
    try:
        ready = prepared(Case(name, (1,)), torch.float64, torch.float32)
        got = found(ready, "finetune")
    except UserError as error:
        refused = str(error)
    else:
        refused = None
    if refused:
        beyond_positions = name == "llama, dynamic rope"
        assert architecture.may_be_refused or not architecture.vectors or beyond_positions
        assert architecture.model_type in refused
        return
    references = ready.references
    try:
        right = expected(references[torch.float64], "finetune")
    except RuntimeError:  # mixtures of experts have no products in float64
        right = expected(references[torch.float32], "finetune")
    rounding = difference_of(expected(references[torch.float32], "finetune"), right)
    assert_equal(got, right, max(1e-5, 2 * rounding))
