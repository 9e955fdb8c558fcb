"""Which device a job computes on: a GPU that no other job of ours has taken, or the CPU."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from mend.errors import UserError
from mend.progress import logger

# Locks are held by open files, so that they vanish with the process, however it ends.
_held: list[int] = []


@cache
def choose_device() -> torch.device:
    """Take a free GPU of those in CUDA_VISIBLE_DEVICES for this process; the CPU if there is none.

    Waits while other jobs have them all, unless MEND_SHARE_GPU=1 lets jobs share. Of the
    processes that `torchrun` starts together each has the GPU of its rank, which the first takes
    for all of them. Raises UserError if they are more than the GPUs.
    """
    names = gpu_names()
    if not names:
        return torch.device("cpu")
    rank, count = (int(os.environ.get(f"LOCAL_{key}", "0")) for key in ("RANK", "WORLD_SIZE"))
    if count > len(names):
        raise UserError(f"{count} processes, but {len(names)} GPUs; start at most {len(names)}")
    share = os.environ.get("MEND_SHARE_GPU") == "1"
    if count <= 1:
        index = take_free(names, lock_folder(), share)
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if rank == 0 and not share:
        # One after the other: two jobs that each had one and waited for the next would never end.
        for name in names[:count]:
            take_free([name], lock_folder())
    return torch.device("cuda", rank)


def supports_bfloat16(device: torch.device) -> bool:
    """Return whether a device is a GPU that multiplies bfloat16 matrices itself."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def gpu_names() -> list[str]:
    """Return what each visible GPU is called on the whole machine."""
    return [
        str(torch.cuda.get_device_properties(index).uuid)
        for index in range(torch.cuda.device_count())
    ]


def lock_folder() -> Path:
    """Return this user's folder of locks, which is made if it is not there."""
    folder = Path(tempfile.gettempdir()) / f"mend-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def take_free(names: Sequence[str], folder: Path, share: bool = False, every: float = 2.0) -> int:
    """Lock one of the named devices until the process ends, and return its index.

    share: if all are taken, share one instead of waiting. every: seconds between two looks.
    """
    waiting = False
    while True:
        for index, name in enumerate(names):
            if _lock(folder / f"{name}.lock"):
                return index
        if share:
            return os.getpid() % len(names)
        if not waiting:
            waiting = True
            logger.info(
                "waiting for a free GPU: other jobs have %s (MEND_SHARE_GPU=1 shares them)",
                f"all {len(names)}" if len(names) > 1 else "it",
            )
        time.sleep(every)


def _lock(path: Path) -> bool:
    """Try to lock a file for as long as this process lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True
