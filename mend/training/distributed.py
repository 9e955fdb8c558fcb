"""Training with several processes, each on its own GPU and with its shard of every batch.

`torchrun --standalone --nproc-per-node N -m -- mend train ...` starts N of them, on CPUs as well.
(Without `--` torchrun takes `--log` for one of its own options.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from mend.models.devices import choose_device

#: How long processes wait for one another: the first may wait for free GPUs before it joins.
LONGEST_WAIT = timedelta(days=7)


class Processes:
    """The one process of an ordinary job: nothing to exchange."""

    rank, count = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that logs and writes."""
        return self.rank == 0

    def shard(self, batch_size: int) -> range:
        """Return the indices of this process's examples of a batch; sizes differ by at most one."""
        return range(self.rank, batch_size, self.count)

    def all_reduce_sum(self, numbers: Tensor) -> Tensor:
        """Return the sums of a tensor's numbers over the processes; a GPU is not waited for."""
        return numbers

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes, the same bits in each of them."""

    def all_gather(self, value: Any) -> list:
        """Return every process's value, in order."""
        return [value]


class TorchProcesses(Processes):
    """Processes that torch.distributed connects: by NCCL on GPUs, by gloo on CPUs."""

    def __init__(self, device: torch.device) -> None:
        """device: where this process's tensors are exchanged from."""
        self.device = device
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()

    def all_reduce_sum(self, numbers: Tensor) -> Tensor:
        """Return the sums of a tensor's numbers over the processes; a GPU is not waited for."""
        sums = numbers.clone()
        distributed.all_reduce(sums)
        return sums

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes, the same bits in each of them."""
        for parameter in parameters:
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)

    def all_gather(self, value: Any) -> list:
        """Return every process's value, in order."""
        values: list = [None] * self.count
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started with this one; alone, if it started none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    from accelerate import PartialState

    choose_device()  # the first process waits here for free GPUs, and the others for the first
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    try:
        yield TorchProcesses(state.device)
    finally:
        state.destroy_process_group()
