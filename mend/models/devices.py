"""Which device a job computes on: a GPU that no other job of ours has taken, or the CPU."""

from __future__ import annotations

import fcntl
import os
import stat
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

_OTHER_FOLDER = "set TMPDIR to a folder of your own"


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
    """Return this user's folder of locks, which is made if it is not there.

    Below XDG_RUNTIME_DIR, which is the user's own, or else in the temporary folder. Another user
    could have made that one first, to hold a lock for ever or to lead it elsewhere: raises
    UserError unless it is a folder, no link, and this user's alone.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    within = Path(runtime) if os.path.isabs(runtime) and os.access(runtime, os.W_OK) else None
    name = f"mend-gpus-{os.getuid()}"
    folder = (within or Path(tempfile.gettempdir())) / name
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(
            f"{folder}: no folder of locks for GPUs ({error.strerror}); {_OTHER_FOLDER}"
        ) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UserError(
            f"{folder}: it is a link, another user's, or others may write in it, so that locks in "
            f"it are not safe; {_OTHER_FOLDER}"
        )
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
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise UserError(f"{path}: no lock can be had there ({error.strerror}); remove it") from None
    if os.fstat(descriptor).st_uid != os.getuid():
        os.close(descriptor)
        raise UserError(f"{path}: this lock is another user's; {_OTHER_FOLDER}")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True
