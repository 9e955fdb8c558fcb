"""How fast something could be at best: its floating-point operations over what was measured as the
fastest that this machine multiplies matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache

import torch
from models import device
from torch.utils.flop_counter import FlopCounterMode

from mend.models.frozen_llm import FrozenLLM


@cache
def peak_flops() -> float:
    """Return operations a second of large matrix products, in the type that the LLMs have.

    The best of several: on a CPU with as many threads as PyTorch has now. A product of n x n
    matrices is 2 n^3 operations.
    """
    on_gpu = device().type == "cuda"
    size, dtype = (8192, torch.bfloat16) if on_gpu else (2048, torch.float32)
    left, right = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))
    shortest = float("inf")
    for _ in range(20):
        _wait()
        began = time.perf_counter()
        left @ right
        _wait()
        shortest = min(shortest, time.perf_counter() - began)
    return 2 * size**3 / shortest


def floor_seconds(run: Callable, *llms: FrozenLLM) -> float:
    """Return the seconds of the matrix products in `run` at the peak.

    PyTorch counts them, attention as if it were eager: that is with what its masks hide, some
    per cent of the whole. llms: those that `run` uses.
    """
    with ExitStack() as stack:
        for llm in llms:
            stack.enter_context(llm.attention_weights())
        counter = stack.enter_context(FlopCounterMode(display=False))
        run()
    return counter.get_total_flops() / peak_flops()


def _wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()
