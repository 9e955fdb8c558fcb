"""Tensors on disk that know what they are of: safetensors with an identity and checksums.

Without them the weights of another method, LLM or stage would load as well, and so would those of
which a disk lost a bit.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mend.errors import UserError, first_line
from mend.models.fingerprint import as_bytes
from mend.models.pretrained import not_finite

_KEY = "mend"


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, identity: Mapping[str, Any]
) -> None:
    """Write tensors with what they are of, JSON.

    Raises UserError, naming it, for one that is not finite.
    """
    if bad := not_finite(tensors.items()):
        raise UserError(f"{path}: {bad} is not finite, so it is not written")
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    sums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    # One key alone: safetensors writes several in any order.
    content = json.dumps({"identity": dict(identity), "checksums": sums}, sort_keys=True)
    save_file(tensors, path, {_KEY: content})
    # safetensors makes files that nobody else may read.
    usual = os.umask(0)
    os.umask(usual)
    os.chmod(path, 0o666 & ~usual)


def _checksum(tensor: Tensor) -> int:
    described = f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    return zlib.crc32(as_bytes(tensor), zlib.crc32(described))


class TensorFile:
    """A file that `save_tensors` wrote, opened: it is mapped into memory as it is read."""

    def __init__(self, path: str | Path, what: str) -> None:
        """Open it; what: such a file is called in messages. Raises UserError if it is none."""
        self.path, self.what = Path(path), what
        if not self.path.is_file():
            raise self.refuse("there is no such file")
        try:
            self._file = safe_open(self.path, "pt")
            content = json.loads((self._file.metadata() or {}).get(_KEY, "{}"))
            self.names = list(self._file.keys())
            self.identity, self._sums = content.get("identity"), content.get("checksums")
        except Exception as error:  # safetensors has errors of its own
            raise self.refuse(first_line(error)) from error
        if not isinstance(self.identity, dict) or set(self.names) != set(self._sums or ()):
            raise self.refuse("it does not say what it is of")

    def refuse(self, why: str) -> UserError:
        """Return the error that says why the file cannot be used."""
        return UserError(f"{self.path}: not {self.what}: {why}")

    def check(self, expected: Mapping[str, Any]) -> None:
        """Raise UserError for the first key of its identity that is not as expected."""
        for key, value in expected.items():
            if self.identity.get(key) != value:
                found, wanted = (json.dumps(one) for one in (self.identity.get(key), value))
                raise self.refuse(f"its {key} is {found[:200]}, and here it is {wanted[:200]}")

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor; raises UserError if it is not what was written, or not finite."""
        try:
            tensor = self._file.get_tensor(name)
        except Exception as error:  # safetensors has errors of its own
            raise self.refuse(first_line(error)) from error
        if bad := not_finite([(name, tensor)]):
            raise self.refuse(f"{bad} is not finite")
        if _checksum(tensor) != self._sums[name]:
            raise self.refuse(f"{name} is not what was written")
        return tensor

    def shape(self, name: str) -> list[int]:
        """Return a tensor's shape."""
        return self._file.get_slice(name).get_shape()
