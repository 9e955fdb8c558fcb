"""T5's attention with its position bias joined with the mask once, not once for each layer.

All layers of a T5 stack add the same position bias to their scores and hide the same tokens;
transformers joins the two in each of them, into a tensor of (sequences, heads, n, m). And where the
bias is trained, PyTorch's faster attention does not apply on processors: what it falls back to
looks for rows without any token besides, which T5's masks (the smallest number, not minus infinity)
cannot make.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mend_shared_bias"


def share_position_bias(model: nn.Module) -> nn.Module:
    """Let a T5 (or one of its stacks) attend in this way, and return it; others stay as they are.

    The same function of the same weights; who chose another attention than PyTorch's keeps it.
    """
    config = model.config
    if config.model_type in ("t5", "mt5") and config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
    return model


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    position_bias: Tensor | None = None,
    **others,
) -> tuple[Tensor, None]:
    """Attend as transformers asks for it: (sequences, heads, n, width of a head) each.

    Returns (sequences, n, heads, width of a head).
    """
    is_causal = module.is_causal and attention_mask is None and query.shape[2] > 1
    joined = _joined(position_bias, attention_mask, is_causal, key)
    if joined.requires_grad and query.device.type == "cpu":
        scores = torch.matmul(query * scaling, key.transpose(2, 3)) + joined
        weights = drop(scores.softmax(-1), dropout, training=module.training)
        return torch.matmul(weights, value).transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, joined, dropout, scaling, **others)


def _joined(bias: Tensor, mask: Tensor | None, is_causal: bool, key: Tensor) -> Tensor:
    """Return what is added to the scores, (sequences or 1, heads, n, m)."""
    # All layers are handed the same bias and mask, so what they make is kept with the bias.
    kept = getattr(bias, "_joined", None)
    if kept is not None and kept[0] is mask:
        return kept[1]
    seen = mask
    if is_causal:
        seen = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()
    if seen is None:
        return bias.contiguous()
    if seen.dtype == torch.bool:
        joined = torch.where(seen, bias, torch.finfo(key.dtype).min)
    else:
        joined = bias + seen
    bias._joined = (mask, joined)
    return joined


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
