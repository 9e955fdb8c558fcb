"""Small text files that a configuration names, read without trust in what they are."""

from __future__ import annotations

import stat
from pathlib import Path

from mend.errors import UserError

LARGEST = 50_000_000
"""Bytes of the largest file that is read while the workflow is parsed."""


def read_small_text(path: str | Path, what: str = "file") -> str:
    """Return the text of a file in UTF-8; what: it is called in messages.

    Raises UserError, naming it, for what is no file (a folder, a device, a pipe) or too large, and
    where it cannot be read.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a {what}, but a folder, a device or a pipe")
        if status.st_size > LARGEST:
            raise UserError(f"{path}: {status.st_size:,} bytes, too large to be a {what}")
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # of a path or its content
        raise UserError(f"{path}: not a {what} in UTF-8") from None
