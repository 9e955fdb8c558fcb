"""What a result was made of: checksums of its inputs, and whether these are still the same.

A result that is newer than its inputs is up to date to Snakemake, which looks at files' times.
An input that is replaced by one with an older time (`cp -p`, an unpacked archive) is found here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from mend.atomic_io import MADE_OF
from mend.errors import UserError

RECORD = "record.json"
"""Beside weights: what they were made of, among other things, under `made_of`."""


def checksums(inputs: Iterable[str | Path | None], output: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each input by its path as seen from the folder of `output`.

    Paths do not change where results are moved as a whole. None, and what is absent, is left out.
    """
    folder = os.path.abspath(Path(output).parent)
    return {
        os.path.relpath(os.path.abspath(path), folder): _checksum(os.fspath(path), *_state(path))
        for path in sorted({os.fspath(path) for path in inputs if path is not None})
        if os.path.isfile(path)
    }


def changed_inputs(results: Iterable[str | Path]) -> list[str]:
    """Return the inputs of results, and of what these were made of, that are others by now.

    Only those are read whose inode changed after the result was written: that time, unlike a file's
    own, is not set back by whoever replaces it. Inputs that are not there any more are left out.
    """
    changed: set[str] = set()
    waiting, seen = [os.path.abspath(path) for path in results], set()
    while waiting:
        result = waiting.pop()
        if result in seen or not os.path.isfile(result):
            continue
        seen.add(result)
        written = os.stat(result).st_mtime_ns
        for name, expected in _made_of(Path(result)).items():
            path = os.path.normpath(os.path.join(os.path.dirname(result), name))
            if not os.path.isfile(path):
                continue
            later = os.stat(path).st_ctime_ns > written
            if later and _checksum(path, *_state(path)) != expected:
                changed.add(path)
            waiting.append(path)
    return sorted(changed)


def replaced_text(changed: Sequence[str]) -> str:
    """Return a sentence on inputs of a result that are others by now, and how to run it again."""
    names = ", ".join(os.path.relpath(path) for path in changed[:5])
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return (
        f"{names}{more}: replaced by another file after these results were made, under an older "
        "time, which Snakemake does not notice. The numbers are of the file before; `touch` it and "
        "run the workflow again"
    )


def _made_of(path: Path) -> dict[str, str]:
    """Return what a result says that it was made of; nothing if it does not say."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            metadata = pyarrow.parquet.read_metadata(path).metadata or {}
            return dict(json.loads(metadata.get(MADE_OF, b"{}")))
        record = path.with_name(RECORD) if path.suffix == ".safetensors" else path
        if record.suffix == ".json" and record.is_file():
            return dict(json.loads(record.read_text(encoding="utf-8")).get("made_of", {}))
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # what reads the file itself says what is wrong with it
    return {}


def _state(path: str | Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=100_000)
def _checksum(path: str, size: int, modified: int, changed: int) -> str:
    """Return the SHA-256 of a file's content, read once in a process while it stays as it is."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
