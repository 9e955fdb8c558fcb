"""Random draws that can be repeated: each has its own generator, seeded by what it is for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def generator(*parts: str | int) -> numpy.random.Generator:
    """A generator that depends on `parts` alone: not on the process, the machine, other draws."""
    import numpy

    digest = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8")).digest()
    return numpy.random.default_rng(int.from_bytes(digest[:16], "big"))
