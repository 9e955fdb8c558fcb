"""A MEND of each architecture with a distiller of its family, and what it learns of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

from helpers.architectures import ARCHITECTURES, Architecture, enlarge, tiny, words
from helpers.models import OBJECTIVE, TRAINING, built
from helpers.reference import Reference
from mend.configuration.specs.training import Losses, LossSettings
from mend.data.examples import Example
from mend.methods.built import BuiltMethod
from mend.methods.mend import Mend
from mend.models.distiller import DistillerModel, distilling_part
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import frozen_llm
from mend.training.distributed import Processes
from mend.training.gradients import BatchGradients
from mend.training.losses import example_losses

LENGTH = 3


@dataclass(frozen=True)
class Case:
    """An LLM and a narrower distiller of its family.

    grow: see `Architecture`, whose own it replaces.
    """

    architecture: str
    prefix: tuple[int, ...] = ()
    query_in: str | None = None
    part: str | None = None
    grow: float | None = None


#: A token stands before the contexts of those whose tokenizers put one there.
CASES = {
    "gpt2": Case("gpt2"),
    "opt": Case("opt", (1,)),
    "llama": Case("llama 3", (1,)),
    "qwen2": Case("qwen2"),
    "qwen3": Case("qwen3"),
    "gemma": Case("gemma", (1,)),
    "gemma 2": Case("gemma 2", (1,), grow=12),
    "gemma 3": Case("gemma 3", (1,)),
    "mistral, window": Case("mistral", (1,)),
    "gpt-neox": Case("gpt-neox"),
    "bloom": Case("bloom"),
    "falcon": Case("falcon, new"),
    "falcon, alibi": Case("falcon, alibi"),
    # Larger weights would make float32's own rounding too large to compare with.
    "t5": Case("t5", grow=1),
    "t5, decoding distiller": Case("t5", part="decoder", grow=1),
    "t5, query in the encoder": Case("t5", query_in="encoder", grow=1),
    "t5, query in the encoder, decoding distiller": Case(
        "t5", (3,), query_in="encoder", part="decoder", grow=1
    ),
}

QUERIES = [
    (words(20, 1), words(20, 1), [(words(5, 10), words(2, 11))]),
    (words(9, 2), words(12, 3), [(words(n, 20 + n), words(6 - n, 30 + n)) for n in (3, 1, 5)]),
    ([], [], [(words(4, 40), words(1, 41))]),
    (words(14, 5), words(14, 5), [(words(17, 50), words(3, 51))]),
]
EXAMPLES = {
    "finetune": [Example(*parts) for parts in QUERIES],
    "pretrain": [
        Example(shown, taught, [([*x, *y], []) for x, y in queries])
        for shown, taught, queries in QUERIES
    ],
}
WEIGHTS = {
    "finetune": Losses(distill=0.7, clm=0.4, pred=1.3),
    "pretrain": Losses(distill=1.2, clm=0.5),
}


def distiller_of(architecture: Architecture) -> nn.Module:
    """Return a base model of half the width, where that is one, its other sizes the same."""
    arguments = dict(architecture.arguments)
    for key in ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"):
        if key in arguments:
            arguments[key] //= 2
    narrow = dataclasses.replace(architecture, arguments=arguments)
    torch.manual_seed(1)
    backbone = AutoModel.from_config((narrow if narrow.exists else architecture).configured())
    enlarge(backbone.float().eval(), architecture.grow)
    return backbone


@dataclass
class Prepared:
    """An LLM and a MEND as training gets them, and the reference in each precision."""

    llm: FrozenLLM
    method: BuiltMethod
    references: dict[torch.dtype, Reference]


def prepared(
    case: Case,
    *precisions: torch.dtype,
    dtype: torch.dtype = torch.float32,
    distilled_in: torch.dtype = torch.float32,
) -> Prepared:
    """Return an LLM in `dtype`, and a distiller whose products are in `distilled_in`.

    The references are in `precisions`; one in a type that the distiller's products have, is mixed.
    """
    architecture = ARCHITECTURES[case.architecture]
    if case.grow:
        architecture = dataclasses.replace(architecture, grow=case.grow)
    model = tiny(architecture).to(dtype)
    backbone = distilling_part(distiller_of(architecture), case.part)
    references = {
        precision: Reference(
            model,
            backbone,
            LENGTH,
            case.query_in,
            case.prefix,
            precision,
            mixed=precision == distilled_in != torch.float32,
        )
        for precision in precisions
    }
    llm = frozen_llm(model, None, query_in=case.query_in, prefix=case.prefix)
    distiller = DistillerModel(
        backbone, LENGTH, llm.width, prefix=case.prefix, precision=distilled_in
    )
    for reference in references.values():
        distiller.load_state_dict(reference.state_dict())

    class OfThisTest(Mend):
        def trained(self, llm, run):
            return {"distiller": distiller}

    return Prepared(llm, built(llm, OfThisTest(length=LENGTH)).eval(), references)


@dataclass
class Learnt:
    """Losses by name, and the gradient of each parameter of a distiller."""

    losses: dict[str, float]
    gradients: dict[str, Tensor]

    @property
    def norm(self) -> float:
        """The norm of the whole gradient."""
        return whole(self.gradients).norm().item()


def whole(gradients: dict[str, Tensor]) -> Tensor:
    """Return gradients in one piece, (numbers,), in the order of their names."""
    return torch.cat([gradients[name].double().flatten() for name in sorted(gradients)])


def learnt(module: nn.Module, losses: dict[str, Tensor], loss: Tensor | None = None) -> Learnt:
    """Take the gradients of a module, those of `loss` if they are not there yet."""
    if loss is not None:
        loss.backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in module.named_parameters()
    }
    module.zero_grad(set_to_none=True)
    values = {name: torch.as_tensor(value).item() for name, value in losses.items()}
    return Learnt(values, gradients)


def weighted(losses: dict[str, Tensor], weights: Losses) -> Tensor:
    return sum(getattr(weights, name) * value for name, value in losses.items())


def expected(
    reference: Reference,
    stage: str,
    objective: LossSettings = OBJECTIVE,
    examples: Sequence[Example] | None = None,
) -> Learnt:
    """Return what the reference makes of examples, all by default."""
    weights, examples = WEIGHTS[stage], examples or EXAMPLES[stage]
    losses = reference.losses(examples, weights, stage, objective)
    return learnt(reference, losses, weighted(losses, weights))


def found(
    ready: Prepared,
    stage: str,
    objective: LossSettings = OBJECTIVE,
    examples: Sequence[Example] | None = None,
) -> Learnt:
    """Return what one call for examples gives, all by default."""
    weights, examples = WEIGHTS[stage], examples or EXAMPLES[stage]
    losses = example_losses(ready.llm, ready.method, examples, weights, stage, objective)
    result = learnt(ready.method.distiller, losses, weighted(losses, weights))
    assert all(parameter.grad is None for parameter in ready.llm.model.parameters())
    return result


def gradients_of(
    ready: Prepared, stage: str, micro_batch_size: int | None, **changes: Any
) -> BatchGradients:
    """Return what computes the gradients of training steps, never clipped."""
    settings = TRAINING.model_copy(
        update={
            "stage": stage,
            "losses": WEIGHTS[stage],
            "batch_size": len(EXAMPLES[stage]),
            "micro_batch_size": micro_batch_size,
            "gradient_clip": 1e9,
            **changes,
        }
    )
    optimizer = torch.optim.AdamW(ready.method.parameters())
    return BatchGradients(ready.llm, ready.method, optimizer, settings, OBJECTIVE, Processes())


def step(ready: Prepared, stage: str, micro_batch_size: int | None) -> tuple[Learnt, float]:
    """Return what a training step computes, and the gradient's norm as it tells it."""
    losses, norm, *_ = gradients_of(ready, stage, micro_batch_size).compute(EXAMPLES[stage])
    return learnt(ready.method.distiller, losses), float(norm)


def assert_equal(got: Learnt, right: Learnt, tolerance: float = 1e-5) -> None:
    """Assert that losses and gradients differ by no more than a share of their size.

    A parameter's gradient is also allowed a tenth of that share of the whole one: some are nothing
    but rounding, as a bias of keys, which no softmax sees.
    """
    # A divergence of a thousandth of a nat is a difference of logarithms as exact as any other.
    assert got.losses == pytest.approx(right.losses, rel=tolerance, abs=1e-7)
    assert got.gradients.keys() == right.gradients.keys()
    for name, gradient in right.gradients.items():
        difference = (got.gradients[name] - gradient).norm().item()
        assert difference <= tolerance * (gradient.norm().item() + 0.1 * right.norm), name
    assert difference_of(got, right) <= tolerance


def difference_of(got: Learnt, right: Learnt) -> float:
    """Return how far the whole gradient is from another, relative to this one's norm."""
    return (whole(got.gradients) - whole(right.gradients)).norm().item() / right.norm
