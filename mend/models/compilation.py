"""Compiling the blocks that a model repeats (`torch.compile`).

A block is compiled once for all that are like it, in seconds, and what is around them (masks,
embeddings) stays as it is, so that attention's fastest kernels still apply. Each shape is compiled
for itself: rows are padded to one of few lengths, and the number of shapes stays small.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Shapes of one block that are compiled; further ones run uncompiled.
SHAPES = 64


def compile_blocks(model: torch.nn.Module) -> None:
    """Compile a model's blocks where they stand, when they are first used."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, SHAPES)
    for block in _blocks(model):
        block.compile(dynamic=False)


def uncompile_blocks(model: torch.nn.Module) -> None:
    """Go back to what a model was before `compile_blocks`."""
    for block in _blocks(model):
        block._compiled_call_impl = None


def is_compiled(model: torch.nn.Module) -> bool:
    """Return whether some of a model's blocks are compiled."""
    return any(block._compiled_call_impl is not None for block in _blocks(model))


@contextmanager
def uncompiled(model: torch.nn.Module) -> Iterator[None]:
    """Let compiled blocks run uncompiled: for shapes that do not come again."""
    if not is_compiled(model):  # the compiler takes seconds to import
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def padded_length(model: torch.nn.Module, length: int, limit: int) -> int:
    """Return how long rows are made for a model: as they are, unless its blocks are compiled.

    Those of a length of 2^k to 2^(k+1) become one of four lengths, or `limit` if it is less.
    """
    if not is_compiled(model):
        return length
    step = max(32, 1 << max(0, (length - 1).bit_length() - 3))
    return max(length, min(-(-length // step) * step, limit))


def _blocks(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the blocks of a model: the modules of its outermost lists."""
    for module in model.children():
        if isinstance(module, torch.nn.ModuleList):
            if len(module) > 1:
                yield from module
        else:
            yield from _blocks(module)
