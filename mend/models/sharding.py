"""A frozen LLM that is too large for one GPU: each of several processes keeps a part of it."""

from __future__ import annotations

import torch
from torch import distributed

from mend.errors import UserError


def shard_blocks(model: torch.nn.Module, device: torch.device) -> None:
    """Leave 1/N of each Transformer block's weights with each of the N processes, on `device`.

    A block is put together when it is computed, forwards and backwards, and taken apart again
    (FSDP); embeddings and output head stay whole. All processes must then read with the LLM
    equally often. Call it before the model is moved to `device`. One process keeps everything.
    Raises UserError if transformers does not say what the model's blocks are.
    """
    if not distributed.is_initialized():
        return
    from torch.distributed.fsdp import fully_shard

    names = set(model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise UserError(f"llms: {model.config.model_type} cannot be sharded; leave `sharded` out")
    mesh = distributed.init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    model._has_sharded_blocks = True  # kept with the model: it is asked at every forward pass


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether `shard_blocks` has left a part of the model with other processes."""
    return getattr(model, "_has_sharded_blocks", False)
