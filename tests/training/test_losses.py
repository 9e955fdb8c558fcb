"""The losses; `test_reference` holds their numbers and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from helpers.examples import examples, mend_method
from helpers.models import OBJECTIVE, build, random_llm, random_tokens
from pydantic import ValidationError

from mend.configuration.specs.training import Losses
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.scoring import score_items
from mend.methods.mend import Mend
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


class OwnLosses(Mend):
    """MEND with losses of its own."""

    own_losses: ClassVar = {"lengths": "How many demonstrations' tokens there are.", "other": ""}

    def lengths_loss(self, llm, trained, contexts, demonstrations):
        """Return the lengths, and see that contexts are those of the demonstrations."""
        assert len(contexts.lengths) == len(demonstrations)
        lengths = torch.tensor([float(len(one)) for one in demonstrations])
        return lengths + 0 * contexts.vectors.sum((1, 2))


def test_a_method_adds_losses_of_its_own() -> None:
    llm = random_llm()
    method = mend_method(llm)
    method.method = OwnLosses(length=3)
    asked = examples()
    weights = Losses(lengths=2.0, pred=1.0, other=0.0)
    losses = example_losses(llm, method, asked, weights, "finetune", OBJECTIVE)
    assert list(losses) == ["pred", "lengths"]
    counts = [len(example.queries) for example in asked]
    total = sum(
        count * len(example.demonstrations) for count, example in zip(counts, asked, strict=True)
    )
    assert losses["lengths"].item() == pytest.approx(total / sum(counts))
    alone = example_losses(llm, method, asked, Losses(lengths=1.0), "finetune", OBJECTIVE)
    assert list(alone) == ["lengths"]
    with pytest.raises(UserError, match="MEND has no loss reconstruction; leave it out"):
        example_losses(llm, method, asked, Losses(reconstruction=1.0), "pretrain", OBJECTIVE)


def test_weights_of_losses_are_numbers_by_any_name() -> None:
    assert Losses(pred=1.0, reconstruction=0.5, other=0.0).own == {"reconstruction": 0.5}
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Losses(reconstruction=-1.0)
