"""How many kernels a GPU is given, counted on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from models import on_gpu, wait
from torch.utils._python_dispatch import TorchDispatchMode

#: What has no kernel, though its result is no view of something.
_NO_KERNEL = (
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "_local_scalar_dense",
)


class _Operators(TorchDispatchMode):
    """Counts operators that compute: no views, and no memory that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        aliases = [one.alias_info for one in operator._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if not is_view and operator.overloadpacket.__name__ not in _NO_KERNEL:
            self.count += 1
        return operator(*args, **(kwargs or {}))


def count_launches(run: Callable[[], Any]) -> int:
    """Return the kernels of one run on a GPU; elsewhere its operators, each of about one kernel."""
    run()  # what is made once is made now
    if not on_gpu():
        with _Operators() as operators:
            run()
        return operators.count
    wait()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        wait()
    on_device = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == on_device for event in profile.events())
