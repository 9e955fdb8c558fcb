"""The three losses; `test_reference` holds their numbers and gradients."""

from __future__ import annotations

import pytest
import torch
from helpers.examples import examples, mend_method
from helpers.models import OBJECTIVE, build, random_llm

from mend.configuration.specs.training import Losses
from mend.training.losses import example_losses, kl_divergence


def test_kl_divergence_is_from_teacher_to_student() -> None:
    teacher, student = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    p, q = teacher.softmax(-1), student.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    teacher, student = teacher.log_softmax(-1), student.log_softmax(-1)
    torch.testing.assert_close(kl_divergence(teacher, student), expected)
    assert kl_divergence(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)


def test_the_student_that_reads_the_demonstrations_has_nothing_to_learn() -> None:
    llm = random_llm()
    losses = example_losses(
        llm, build(llm, "vanilla-icl"), examples(), Losses(distill=1.0), "finetune", OBJECTIVE
    )
    assert losses["distill"].item() == pytest.approx(0.0, abs=1e-5)


def test_only_losses_with_a_weight_are_computed() -> None:
    llm = random_llm()
    weights = Losses(clm=1.0)
    losses = example_losses(llm, mend_method(llm), examples(), weights, "pretrain", OBJECTIVE)
    assert list(losses) == ["clm"]
