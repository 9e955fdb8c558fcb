"""The three losses against their formulas, one query at a time without cache or padding."""

from __future__ import annotations

import pytest
import torch
from helpers.examples import ALL, examples, mend_method
from helpers.models import OBJECTIVE, build, random_llm
from torch.nn import functional

from mend.configuration.choices import LOSSES
from mend.configuration.specs.training import Losses, LossSettings
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM
from mend.training.losses import example_losses, kl_divergence


def expected_losses(
    llm: FrozenLLM, method: BuiltMethod, protocol: LossSettings, stage: str
) -> dict:
    """Average over queries of each loss, from whole forward passes."""
    sums = dict.fromkeys(LOSSES, 0.0)
    count = 0
    for example in examples():
        vectors = method.contexts(llm, [example.demonstrations]).vectors
        for x, y in example.queries:
            count += 1
            text = torch.tensor([[*x, *y]])
            student = llm.model(inputs_embeds=torch.cat([vectors, llm.embedding(text)], 1)).logits
            student = student[0, vectors.shape[1] - 1 : -1].log_softmax(-1)
            demonstrations = torch.tensor([example.teacher_demonstrations])
            teacher = llm.model(torch.cat([demonstrations, text], 1)).logits
            teacher = teacher[0, demonstrations.shape[1] - 1 : -1].log_softmax(-1)
            nll = -student[torch.arange(text.shape[1]), text[0]]
            kl = functional.kl_div(student, teacher, log_target=True, reduction="none").sum(-1)
            both = stage == "finetune" and protocol.distill_in_finetuning != "input"
            kl = kl if both else kl[: len(x)]
            sums["distill"] += kl[0 if protocol.distill_first_token else 1 :].mean().item()
            sums["clm"] += nll[: len(x)].mean().item()
            answer = nll[len(x) :]
            pred = answer.sum() if protocol.prediction_loss == "sum" else answer.mean()
            sums["pred"] += pred.item()
    return {name: value / count for name, value in sums.items()}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"distill_first_token": False},
        {"distill_in_finetuning": "input"},
        {"prediction_loss": "sum"},
    ],
)
def test_losses_follow_their_formulas(stage: str, change: dict) -> None:
    llm = random_llm()
    method, protocol = mend_method(llm), OBJECTIVE.model_copy(update=change)
    found = example_losses(llm, method, examples(), ALL, stage, protocol)
    expected = expected_losses(llm, method, protocol, stage)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        expected, rel=1e-4
    )


def test_kl_divergence_is_from_teacher_to_student() -> None:
    teacher, student = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    p, q = teacher.softmax(-1), student.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
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


@pytest.mark.parametrize("width", [16, 8])
def test_gradients_reach_the_distiller_and_never_the_llm(width: int) -> None:
    llm = random_llm()
    method = mend_method(llm, width)
    losses = example_losses(llm, method, examples(), ALL, "finetune", OBJECTIVE)
    sum(losses.values()).backward()
    assert all(parameter.grad is None for parameter in llm.model.parameters())
    without = [
        name
        for name, parameter in method.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert without == []
