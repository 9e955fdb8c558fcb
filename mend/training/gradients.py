"""Gradients of whole batches, from micro-batches that fit the memory and the number format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.utils.flop_counter import FlopCounterMode

from mend.configuration.specs.training import LossSettings, TrainingSettings
from mend.data.examples import Example
from mend.errors import UserError
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM
from mend.models.sharding import is_sharded
from mend.progress import logger
from mend.training.distributed import Processes
from mend.training.losses import example_losses


class BatchGradients:
    """Computes the gradients of batches; what it learns about memory and scale it remembers.

    micro_batch_size: how many examples are computed at once; halved when memory runs out.
    A float16 LLM loses small gradients on their way through it, so its loss is scaled up, by as
    much as its range allows, and the gradients are scaled down again in float32.
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
        self.micro_batch_size = training.micro_batch_size or training.batch_size
        self.scaler = torch.amp.GradScaler(llm.device.type, enabled=llm.dtype == torch.float16)

    def state(self) -> dict:
        """Return what it remembers, for a checkpoint."""
        return {"micro_batch_size": self.micro_batch_size, "scaler": self.scaler.state_dict()}

    def restore(self, state: dict) -> None:
        """Remember what `state` returned."""
        self.micro_batch_size = state["micro_batch_size"]
        self.scaler.load_state_dict(state["scaler"])

    def compute(
        self, batch: Sequence[Example], count_flops: bool = False
    ) -> tuple[dict[str, float], float, float]:
        """Leave the clipped gradients of all processes' batches in the parameters.

        Returns the losses (their weighted sum as `loss`), the gradient's norm before it was
        clipped, and the floating-point operations of all processes: 0 if they are not asked for,
        NaN if they cannot be counted.
        """
        while True:
            losses, flops = self._within_memory(batch, count_flops)
            self.processes.all_reduce_gradients(self.parameters)
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.training.gradient_clip)
            norm = float(norm)
            if not self.scaler.is_enabled():
                return losses, norm, flops
            scale = self.scaler.get_scale()
            self.scaler.update()  # halves the scale if a gradient is not finite
            if math.isfinite(norm) or not math.isfinite(losses["loss"]) or scale <= 1:
                return losses, norm, flops
            self.optimizer.zero_grad(set_to_none=True)  # the same batch again, with half the scale

    def _within_memory(
        self, batch: Sequence[Example], count_flops: bool
    ) -> tuple[dict[str, float], float]:
        """Add up the batch's gradients, with smaller micro-batches when memory runs out."""
        [queries] = self.processes.all_reduce_sum([sum(len(example.queries) for example in batch)])
        uncounted = 0.0
        while True:
            random = self._random_state()
            try:
                with FlopCounterMode(display=False) if count_flops else nullcontext() as counter:
                    losses = self._accumulate(batch, queries)
                break
            except Exception as error:
                if isinstance(error, torch.OutOfMemoryError) or (
                    isinstance(error, RuntimeError) and should_reduce_batch_size(error)
                ):
                    self._halve(min(self.micro_batch_size, len(batch)))
                elif count_flops:
                    # Another error comes again without the counter, and is told then.
                    self._do_not_count(error, random)
                    count_flops, uncounted = False, math.nan
                else:
                    raise
            # Outside of the block above: the error keeps the tensors of the failed micro-batch.
            self.optimizer.zero_grad(set_to_none=True)
            clear_device_cache(garbage_collection=True)
        flops = float(counter.get_total_flops()) if counter else uncounted
        *sums, flops = self.processes.all_reduce_sum([*losses.values(), flops])
        losses = dict(zip(losses, sums, strict=True))
        total = sum(getattr(self.training.losses, name) * value for name, value in losses.items())
        return {"loss": total, **losses}, flops

    def _random_state(self) -> list[torch.Tensor]:
        on_gpu = self.llm.device.type == "cuda"
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_gpu else [])]

    def _do_not_count(self, error: Exception, random: list[torch.Tensor]) -> None:
        """Go back to the random state from before an attempt to count, which never stops a job."""
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("operations are not counted: the counter stopped at %r", reason[:200])
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

    def _accumulate(self, batch: Sequence[Example], queries: float) -> dict[str, float]:
        """Add up the gradients of this process's micro-batches; return its part of the losses.

        queries: how many the batches of all processes have; each counts alike.
        """
        weights, size = self.training.losses, self.micro_batch_size
        sums: dict[str, float] = {}
        if size < len(batch):
            # Those of similar length together: less padding. The whole is the same.
            batch = sorted(batch, key=lambda example: len(example.demonstrations))
        for start in range(0, len(batch), size):
            micro_batch = batch[start : start + size]
            share = sum(len(example.queries) for example in micro_batch) / queries
            values = example_losses(
                self.llm, self.method, micro_batch, weights, self.training.stage, self.objective
            )
            loss = sum(getattr(weights, name) * value for name, value in values.items()) * share
            self.scaler.scale(loss).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value.item() * share
        return sums
