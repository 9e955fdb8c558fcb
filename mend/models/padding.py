"""Token ids of several lengths as one tensor, and tensors on their way to a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor of the host's to a device; a GPU is not waited for."""
    if device.type == "cuda" and torch.cuda.is_available():
        # From memory that is not pinned, a copy waits for all that the GPU still has to do.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def indices(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers as an int64 tensor on a device."""
    return to_device(torch.tensor(numbers, dtype=torch.long), device)


def pad_left(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack token ids into (sequences, longest), padded on the left, and their 0/1 mask."""
    ids, mask = _pad(sequences, left=True)
    return to_device(ids, device), to_device(mask, device)


def pad_right(
    sequences: Sequence[Sequence[int]], device: torch.device, width: int = 0
) -> tuple[Tensor, Tensor]:
    """Stack token ids into (sequences, longest), padded on the right, and their 0/1 mask.

    width: how long they are at least.
    """
    ids, mask = _pad(sequences, left=False, width=width)
    return to_device(ids, device), to_device(mask, device)


def _pad(sequences: Sequence[Sequence[int]], left: bool, width: int = 0) -> tuple[Tensor, Tensor]:
    longest = max(width, max((len(sequence) for sequence in sequences), default=0))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        if len(sequence):
            where = slice(longest - len(sequence), longest) if left else slice(len(sequence))
            ids[row, where] = torch.as_tensor(sequence, dtype=torch.long)
            mask[row, where] = 1
    return ids, mask
