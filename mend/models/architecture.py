"""What an architecture does, from its configuration and the arguments of its forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mend.configuration import positions

#: The number of positions of a model that has no limit.
UNLIMITED = 10**9


def takes(module: torch.nn.Module, argument: str) -> bool:
    """Return whether a module's forward pass names an argument."""
    return argument in _arguments(type(module).forward)


@cache
def _arguments(forward: Callable) -> frozenset[str]:
    """Return what a forward pass names; asked at every pass, looked up once."""
    return frozenset(inspect.signature(forward).parameters)


def keep_caps(model: torch.nn.Module) -> None:
    """Let models that cap what attention's softmax gets (Gemma 2) attend in the plainest way.

    PyTorch's fused attention has no caps, and transformers left them out, without a word, until it
    stopped using it for such models.
    """
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            capped = getattr(part.config, "attn_logit_softcapping", None)
            if capped and part.config._attn_implementation == "sdpa":
                part.set_attn_implementation("eager")


def name_of_blocks(model: torch.nn.Module) -> str | None:
    """Return the name of the list of a model's blocks; None if none is as long as it says."""
    count = getattr(model.config, "num_hidden_layers", None)
    # Outer modules come first: a block's own lists, of experts say, after that of the blocks.
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name
    return None


def max_positions(config: PretrainedConfig) -> int:
    """Return how many tokens a model of this configuration can read in all."""
    return positions.max_positions(config.to_dict()) or UNLIMITED


def counts_from_the_start(config: PretrainedConfig) -> bool:
    """Return whether attention depends on how far a token is from a row's first one.

    Layers that attend within chunks, and scales that grow with the position, count a cache's
    padding as tokens.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    return bool(
        getattr(config, "attention_chunk_size", None)
        or getattr(config, "attn_temperature_tuning", None)
        or "llama_4_scaling_beta" in rope
    )


def rope_switch(config: PretrainedConfig) -> int | None:
    """Return up to how many positions a model rotates all of them in another way than beyond.

    None if it always rotates alike. Keys that were made on one side of the switch are wrong for a
    row that ends on the other.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    # Some models have rotations of their own for each kind of layer.
    for one in (rope, *rope.values()):
        if isinstance(one, dict) and one.get("rope_type") == "longrope":
            switch = one.get("original_max_position_embeddings")
            return switch or getattr(config, "original_max_position_embeddings", None)
    return None
