"""GELU's approximation by tanh as one operation: the same function, the same weights.

Processor time without it over that with it (benchmarks/kernel_gains.py, 2 busy processors,
float32): a training step at GPT-2's shape 1.2 to 1.35, scoring there 1.05 to 1.3, a training step
of the pocket T5 1.06 to 1.09. The pocket GPT-2s are configured with it, and gain nothing.
"""

from __future__ import annotations

from torch import nn
from transformers.activations import ACT2FN, NewGELUActivation

from mend.models.kernels import enabled


def fuse_activations(model: nn.Module) -> nn.Module:
    """Let PyTorch's own kernel compute GELU's approximation by tanh, and return the model.

    GPT-2 and T5 v1.1 write it out as eight operations, each of which reads and writes (and, for the
    backward pass, keeps) tensors of the feed-forward part's width. In float32 both agree to 1e-6;
    in 16 bits the kernel rounds once where the eight operations round each time.
    """
    if not enabled("activations"):
        return model
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])
    return model
