"""The batches of a training, built ahead of their steps where a GPU would wait for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from mend.data.examples import Example
from mend.errors import UserError
from mend.training.distributed import Processes


class _Batches(Dataset):
    """A process's examples of each step."""

    def __init__(self, examples: Sequence[Example], size: int, processes: Processes) -> None:
        self.examples, self.size, self.shard = examples, size, processes.shard(size)

    def __getitem__(self, step: int) -> list[Example] | UserError:
        try:
            return [self.examples[step * self.size + index] for index in self.shard]
        except UserError as error:  # a worker would wrap it in a traceback
            return error


def batches(
    examples: Sequence[Example],
    size: int,
    steps: range,
    processes: Processes,
    workers: int = 0,
) -> Iterator[list[Example]]:
    """Yield this process's examples of each step, of `size` for all processes together.

    workers: 1 builds them ahead, in a process of its own; 0 builds each when it is asked for.
    Raises UserError for an example that cannot be built.
    """
    ahead = {}
    if workers:
        ahead = {"multiprocessing_context": "fork", "prefetch_factor": 4}
    loader = DataLoader(
        _Batches(examples, size, processes),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_as_they_are,
        worker_init_fn=_leave_signals_alone,
        generator=torch.Generator(),  # the global one is the training's
        **ahead,
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _as_they_are(batch: list[Example] | UserError) -> list[Example] | UserError:
    return batch


def _leave_signals_alone(worker: int) -> None:
    """What asks a job to stop reaches its workers, too: the job ends them, after its step."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not outlive a fork
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
