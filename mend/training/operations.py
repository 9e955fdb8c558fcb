"""The floating-point operations that a training step needs, and how many a device does in a second.

They are counted as `mend.models.operations` says. Rows have their own lengths: padding is not
needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from mend.configuration.specs.training import Losses, LossSettings
from mend.data.examples import Example
from mend.models.frozen_llm import FrozenLLM
from mend.models.operations import (
    FORWARD,
    FROZEN,
    TRAINED,
    CompressorSizes,
    DistillerSizes,
    elements,
    sizes_of,
)
from mend.progress import logger

if TYPE_CHECKING:
    from mend.methods.built import BuiltMethod
    from mend.models.compressor import Compressor
    from mend.models.distiller import DistillerModel
    from mend.models.hypernetwork import Hypernetwork


class TrainingOperations:
    """Counts what the steps of a training need; sizes are looked up once.

    Of an architecture whose sizes are not found, and of a method that trains other matrices than a
    distiller's or a compressor's, or does not say how many vectors it makes, that is told once, and
    the count is NaN.
    """

    def __init__(
        self,
        llm: FrozenLLM,
        method: BuiltMethod,
        losses: Losses,
        stage: str,
        objective: LossSettings,
    ) -> None:
        """Look up the sizes; losses, stage, objective: as of `mend.training.losses`."""
        self.losses, self.objective = losses, objective
        self.finetunes = stage == "finetune"
        self.whole = llm.predicts_query or not self.finetunes
        self.known = False
        try:
            self.vectors = _vectors(method)
            parts = _distillers(method)
            # Forwards, and backwards to the weights and to the vectors.
            maps = [
                3 * part.operations(each.length)
                for part in _hypernetworks(method)
                for each in parts
            ]
            self.maps = sum(maps)
            self.compressors, self.distillers = [], []
            if method.method.adapts_llm:
                self.compressors = [CompressorSizes(each) for each in parts]
                self.compressed_rows = method.method.compressed_rows
            else:
                self.distillers = [DistillerSizes(each) for each in parts]
            self.llm = sizes_of(llm)
            self.head = llm.model.get_output_embeddings().weight.numel()
            self.known = True
        except Exception as error:  # whatever an architecture lacks, it is trained all the same
            logger.warning("neither operations nor utilisation will be known: %s", error)

    def __call__(self, examples: Iterable[Example]) -> float:
        """Return the operations of a step over examples; NaN if they are not known."""
        return sum(map(self._example, examples)) if self.known else math.nan

    def _example(self, example: Example) -> float:
        found = self.maps + sum(
            each.operations(len(example.demonstrations), TRAINED) for each in self.distillers
        )
        for each in self.compressors:
            rows = self.compressed_rows(len(example.demonstrations))
            found += each.operations(rows, TRAINED)
        # A loss of a method's own has the demonstrations predicted after their context.
        for _ in self.losses.own:
            tokens = len(example.demonstrations)
            found += self.llm.operations(self.vectors, [(0, tokens)], FROZEN)
            found += 4 * self.head * tokens
        lengths = [(len(x), len(y)) for x, y in example.queries]
        rows = [(0, x + y) if self.whole else (x, y) for x, y in lengths]
        if self.losses.choice:
            for (x, y), others in zip(lengths, example.others, strict=True):
                options = [y, *map(len, others)]
                found += self.llm.operations(self.vectors, [(x, each) for each in options], FROZEN)
                found += 4 * self.head * sum(options)
        found += self.llm.operations(self.vectors, rows, FROZEN)
        if self.losses.distill and example.teacher_states is None:
            found += self.llm.operations(len(example.teacher_demonstrations), rows, FORWARD)
        for x, y in lengths:
            found += 2 * self.head * self._with_logits(x if self.whole else 0, y)
        return found

    def _with_logits(self, inputs: int, answer: int) -> int:
        """Return how often a query's tokens have logits: forwards, backwards and the teacher's."""
        losses, skipped = self.losses, not self.objective.distill_first_token
        of_answer = self.finetunes and self.objective.distill_in_finetuning == "input-and-output"
        taught_inputs = max(0, inputs - skipped) if losses.distill else 0
        taught_answer = answer - (skipped and not inputs) if losses.distill and of_answer else 0
        student = inputs if losses.clm else taught_inputs
        student += answer if losses.pred else taught_answer
        return 2 * student + taught_inputs + taught_answer


def _vectors(method: BuiltMethod) -> int:
    if method.context_length is None:
        raise ValueError(f"{method.name} does not say how many vectors it makes (`length`)")
    return method.context_length


def _hypernetworks(method: BuiltMethod) -> list[Hypernetwork]:
    return [part for part in method.children() if hasattr(part, "down")]


def _distillers(method: BuiltMethod) -> list[DistillerModel | Compressor]:
    # By what it has: trainings without a distiller need not know the class.
    found = [part for part in method.children() if hasattr(part, "placeholders")]
    known = [*found, *_hypernetworks(method)]
    if any(elements(part) for part in method.children() if part not in known):
        raise ValueError(f"{method.name} trains matrices besides a distiller's or a compressor's")
    return found


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of large matrix products, the best of several.

    On a processor with as many threads as PyTorch has now, and in a quarter of a second. A product
    of n x n matrices is 2 n^3 operations. PyTorch's random state is left as it is.
    """
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 1024
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)
    )
    best, began = math.inf, time.perf_counter()
    for _ in range(20):
        before = _now(device)
        left @ right
        best = min(best, _now(device) - before)
        if not on_gpu and time.perf_counter() - began > 0.25:
            break
    return 2 * size**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
