"""Random samples that can be repeated: each has its own generator, seeded by a sampling key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def generator(*key: str | int) -> numpy.random.Generator:
    """A generator that depends on its key alone: not on process, machine or other samples."""
    import numpy

    digest = hashlib.sha256("\0".join(map(str, key)).encode("utf-8")).digest()
    return numpy.random.default_rng(int.from_bytes(digest[:16], "big"))
