"""What makes a program wait for a GPU, found on processors."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators of whose result the processor must know the numbers, or how many there are.
OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal")
#: What reads a tensor's numbers without an operator of its own.
METHODS = ("tolist", "numpy", "cpu")
#: Copies of the program's numbers to a device, from memory that is not pinned.
COPIES = ("tensor", "as_tensor")


class Waits:
    """Notes each call that would wait for a GPU while this is entered.

    names: of the calls, in their order. places: where each was made, the innermost first.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.names: list[str] = []
        self.places: list[str] = []
        self._modes = (_Functions(self), _Operators(self))

    def __enter__(self) -> Waits:
        """Watch."""
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Watch no longer."""
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def note(self, name: str) -> None:
        """Note a call."""
        frames = [one for one in traceback.extract_stack() if one.filename != __file__]
        place = " < ".join(f"{one.filename}:{one.lineno}" for one in frames[:-5:-1])
        self.names.append(name)
        self.places.append(place)


class _Functions(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if name in METHODS or (name in COPIES and _copies(args[0], kwargs.get("device"))):
            self.waits.note(name)
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)


def _copies(data: Any, device: torch.device | None) -> bool:
    """Return whether something is copied: an empty cache is not."""
    return device is not None and not torch.is_tensor(data) and data != []


class _Operators(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        of_booleans = name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if name in OPERATORS or of_booleans:
            self.waits.note(name)
        return operator(*args, **(kwargs or {}))
