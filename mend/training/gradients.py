"""Gradients of whole batches, from micro-batches that fit the memory and the number format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from mend.configuration.specs.training import LossSettings, TrainingSettings
from mend.data.examples import Example
from mend.errors import UserError
from mend.methods.built import BuiltMethod
from mend.models.compilation import compile_blocks, is_compiled, uncompile_blocks
from mend.models.frozen_llm import FrozenLLM
from mend.models.padding import to_device
from mend.models.sharding import is_sharded
from mend.progress import logger
from mend.training.distributed import Processes
from mend.training.losses import example_losses

#: Tokens of demonstrations that a processor reads at once: more are no faster, and take memory.
PROCESSOR_TOKENS = 2048
#: Steps from which on compiling pays on a GPU: it takes about a minute and saves a third of each.
COMPILED_STEPS = 1000


class BatchGradients:
    """Computes the gradients of batches; what it learns about memory and scale it remembers.

    micro_batch_size: how many examples are computed at once at most; None where only the memory
    limits it. Halved when memory runs out.
    A float16 LLM loses small gradients on their way through it, so its loss is scaled up, by as
    much as its range allows, and the gradients are scaled down again in float32.
    Neither losses nor norms are looked at here (but for a float16 LLM), so that a GPU never waits.
    """

    def __init__(
        self,
        llm: FrozenLLM,
        method: BuiltMethod,
        optimizer: torch.optim.Optimizer,
        training: TrainingSettings,
        objective: LossSettings,
        processes: Processes,
    ) -> None:
        """Compute for `method`, whose trained parameters are the optimizer's."""
        self.llm, self.method, self.optimizer = llm, method, optimizer
        self.training, self.objective, self.processes = training, objective, processes
        self.parameters = [value for group in optimizer.param_groups for value in group["params"]]
        size = training.micro_batch_size
        self.micro_batch_size = None if size == "auto" else size
        self.scaler = torch.amp.GradScaler(llm.device.type, enabled=llm.dtype == torch.float16)
        if _compiles(llm, method, training):
            logger.info("the models' blocks are compiled as they are first used")
            compile_blocks(llm.model)
            compile_blocks(method)

    def state(self) -> dict:
        """Return what it remembers, for a checkpoint."""
        return {"micro_batch_size": self.micro_batch_size, "scaler": self.scaler.state_dict()}

    def restore(self, state: dict) -> None:
        """Remember what `state` returned."""
        self.micro_batch_size = state["micro_batch_size"]
        self.scaler.load_state_dict(state["scaler"])

    def compute(self, batch: Sequence[Example]) -> tuple[dict[str, Tensor], Tensor]:
        """Leave the clipped gradients of all processes' batches in the parameters.

        Returns the losses (their weighted sum as `loss`), and the gradient's norm before it was
        clipped, each a tensor of one number.
        """
        while True:
            with float32_products(self.llm.device, self.method.rounds_to_tf32):
                losses = self._within_memory(batch)
            self.processes.all_reduce_gradients(self.parameters)
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.training.gradient_clip)
            if not self.scaler.is_enabled():
                return losses, norm
            scale = self.scaler.get_scale()
            self.scaler.update()  # halves the scale if a gradient is not finite
            if norm.isfinite() or not losses["loss"].isfinite() or scale <= 1:
                return losses, norm
            self.optimizer.zero_grad(set_to_none=True)  # the same batch again, with half the scale

    def _within_memory(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        """Add up the batch's gradients, with smaller micro-batches when memory runs out."""
        own = torch.tensor(float(sum(len(example.queries) for example in batch)))
        queries = self.processes.all_reduce_sum(to_device(own, self.llm.device))
        while True:
            random = self._random_state()
            size = self._micro_batch_size(batch)
            try:
                losses = self._accumulate(batch, queries, size)
                break
            except Exception as error:
                if isinstance(error, torch.OutOfMemoryError) or (
                    isinstance(error, RuntimeError) and should_reduce_batch_size(error)
                ):
                    self._halve(size)
                elif is_compiled(self.llm.model) and not isinstance(error, UserError):
                    # Another error comes again uncompiled, and is told then.
                    self._do_not_compile(error, random)
                else:
                    raise
            # Outside of the block above: the error keeps the tensors of the failed micro-batch.
            self.optimizer.zero_grad(set_to_none=True)
            clear_device_cache(garbage_collection=True)
        sums = self.processes.all_reduce_sum(torch.stack(list(losses.values())))
        losses = dict(zip(losses, sums, strict=True))
        total = sum(getattr(self.training.losses, name) * value for name, value in losses.items())
        return {"loss": total, **losses}

    def _micro_batch_size(self, batch: Sequence[Example]) -> int:
        """Return how many of a batch's examples are computed at once."""
        if self.micro_batch_size is not None:
            return min(self.micro_batch_size, len(batch))
        if self.llm.device.type == "cuda" or is_sharded(self.llm.model):
            return len(batch)
        longest = max(len(example.teacher_demonstrations) for example in batch)
        return max(1, min(len(batch), PROCESSOR_TOKENS // max(1, longest)))

    def _random_state(self) -> list[Tensor]:
        on_gpu = self.llm.device.type == "cuda"
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_gpu else [])]

    def _do_not_compile(self, error: Exception, random: list[Tensor]) -> None:
        """Go on uncompiled, with the random state from before the attempt."""
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("going on uncompiled: torch.compile stopped at %r", reason[:200])
        uncompile_blocks(self.llm.model)
        uncompile_blocks(self.method)
        torch.set_rng_state(random[0])
        for state in random[1:]:
            torch.cuda.set_rng_state(state)

    def _halve(self, size: int) -> None:
        """Halve the micro-batch; raises UserError at one example, or if the LLM is sharded."""
        if is_sharded(self.llm.model):
            # The others wait for this one's part of a block, in the middle of their micro-batches.
            raise UserError(
                f"training.{self.training.stage}.micro_batch_size: {size} examples at once do "
                f"not fit the memory of {self.llm.device}; a sharded LLM needs it set lower"
            ) from None
        if size <= 1:
            raise UserError(
                f"training.{self.training.stage}: one example does not fit the memory of "
                f"{self.llm.device}; shorten protocol.longest_context, lower queries_per_episode, "
                "choose a smaller dtype or int8 for the LLM, or a larger GPU"
            ) from None
        self.micro_batch_size = size // 2
        logger.warning(
            "out of memory: from here on %d examples at once; the batch is still of %d",
            self.micro_batch_size,
            self.training.batch_size,
        )

    def _accumulate(
        self, batch: Sequence[Example], queries: Tensor, size: int
    ) -> dict[str, Tensor]:
        """Add up the gradients of this process's micro-batches; return its part of the losses.

        queries: how many the batches of all processes have; each counts alike. size: of a
        micro-batch at most.
        """
        weights = self.training.losses
        sums: dict[str, Tensor] = {}
        if size < len(batch):
            # Those of similar length together: less padding. The whole is the same.
            batch = sorted(batch, key=lambda example: len(example.demonstrations))
        for micro_batch in _parts(batch, size):
            share = sum(len(example.queries) for example in micro_batch) / queries
            values = example_losses(
                self.llm, self.method, micro_batch, weights, self.training.stage, self.objective
            )
            loss = sum(getattr(weights, name) * value for name, value in values.items()) * share
            self.scaler.scale(loss).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * share
        return sums


def _compiles(llm: FrozenLLM, method: BuiltMethod, training: TrainingSettings) -> bool:
    """Return whether a training is compiled."""
    changes = method.method.kind in ("low-rank", "additions")  # by hooks on what would be compiled
    can = not (changes or is_sharded(llm.model) or getattr(llm.model, "is_quantized", False))
    if training.compile == "auto":
        return can and llm.device.type == "cuda" and training.steps >= COMPILED_STEPS
    if training.compile and not can:
        logger.warning("not compiled: an LLM that is sharded, in 8 bit, or changed cannot be")
    return training.compile and can


def _parts(batch: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """Yield a batch in as few parts of at most `size` as there can be, of about equal sizes."""
    count = -(-len(batch) // size)
    for part in range(count):
        yield batch[len(batch) * part // count : len(batch) * (part + 1) // count]


@contextmanager
def float32_products(device: torch.device, rounded: bool) -> Iterator[None]:
    """Let a GPU round the factors of float32 matrix products to TF32, or not."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if rounded else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
