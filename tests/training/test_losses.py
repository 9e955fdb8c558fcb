"""The losses; `test_reference` holds their numbers and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.examples import examples, mend_method
from helpers.models import OBJECTIVE, build, random_llm, random_tokens

from mend.configuration.specs.training import Losses
from mend.data.items import MultipleChoiceItem
from mend.evaluation.scoring import score_items
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


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
def test_the_choice_is_that_of_the_scores_by_which_rows_are_scored(architecture: str) -> None:
    llm = random_llm(architecture)
    method, asked, expected = mend_method(llm), [], []
    for number, example in enumerate(examples()):
        others = [
            [random_tokens(n + 1, 50 + n) for n in range(number + query)]
            for query in range(len(example.queries))
        ]
        asked.append(replace(example, others=others))
        for (x, y), wrong in zip(example.queries, others, strict=True):
            item = MultipleChoiceItem(number, example.demonstrations, x, [y, *wrong])
            (scores,) = score_items(llm, method, [item])
            expected.append(-torch.tensor(scores).log_softmax(0)[0])
    weights = Losses(choice=1.0)
    losses = example_losses(llm, method, asked, weights, "finetune", OBJECTIVE)
    torch.testing.assert_close(losses["choice"], torch.stack(expected).mean(), atol=1e-5, rtol=1e-4)
    together = Losses(choice=1.0, pred=1.0, distill=1.0)
    more = example_losses(llm, method, asked, together, "finetune", OBJECTIVE)
    torch.testing.assert_close(more["choice"], losses["choice"], atol=1e-5, rtol=1e-4)
    alone = Losses(pred=1.0, distill=1.0)
    without = example_losses(llm, method, asked, alone, "finetune", OBJECTIVE)
    for name, value in without.items():
        torch.testing.assert_close(more[name], value, atol=1e-5, rtol=1e-4)
    more["choice"].backward()
    assert method.distiller.placeholders.grad.abs().max() > 0
