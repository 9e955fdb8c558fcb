"""Batches built ahead are those that are built when they are asked for."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from helpers.models import random_tokens

from mend.data.examples import Example
from mend.errors import UserError
from mend.training.batches import batches
from mend.training.distributed import Processes


class Examples:
    def __getitem__(self, index: int) -> Example:
        if index >= 40:
            raise UserError(f"rows.parquet, row {index}: too long")
        states = torch.full((2, 3), float(index))
        return Example(random_tokens(5, index), [], [([index], [1])], states)


class SecondOfTwo(Processes):
    rank, count = 1, 2


@pytest.mark.parametrize("processes", [Processes(), SecondOfTwo()])
def test_a_worker_builds_the_same_batches_in_order(processes: Processes) -> None:
    random = torch.get_rng_state()
    ahead, asked = (
        list(batches(Examples(), 5, range(2, 8), processes, workers)) for workers in (1, 0)
    )
    assert torch.equal(torch.get_rng_state(), random)
    queries = [[example.queries[0][0][0] for example in batch] for batch in ahead]
    assert queries == [[5 * step + index for index in processes.shard(5)] for step in range(2, 8)]
    for batch, other in zip(ahead, asked, strict=True):
        for example, same in zip(batch, other, strict=True):
            assert example.demonstrations == same.demonstrations
            assert torch.equal(example.teacher_states, same.teacher_states)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_an_example_is_told_in_its_own_words(workers: int) -> None:
    made = batches(Examples(), 5, range(7, 9), Processes(), workers)
    assert len(next(made)) == 5
    with pytest.raises(UserError, match=r"^rows.parquet, row 40: too long$"):
        next(made)


def test_a_signal_to_all_processes_leaves_the_worker_to_its_job() -> None:
    pids = []

    class Telling(Examples):
        def __getitem__(self, index: int) -> Example:
            return Example([os.getpid()], [], [([index], [1])])

    for batch in batches(Telling(), 1, range(30), Processes(), workers=1):
        pids += batch[0].demonstrations
        if len(pids) == 1:
            os.kill(pids[0], signal.SIGTERM)
            os.kill(pids[0], signal.SIGINT)
    assert len(pids) == 30
    assert set(pids) == {pids[0]}
    assert pids[0] != os.getpid()
