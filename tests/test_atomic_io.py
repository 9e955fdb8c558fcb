"""Results appear whole or not at all, and a full disk is told by its name."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from mend.atomic_io import atomic_file, atomic_folder
from mend.errors import UserError

FULL = [OSError(errno.ENOSPC, "No space left on device"), Exception("I/O: No space left on device")]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_told_with_what_is_needed(tmp_path: Path, error: Exception) -> None:
    before, folder = tmp_path / "weights", tmp_path / "folder"
    before.write_bytes(b"x" * 3 * 10**6)

    def replace_file() -> None:
        with atomic_file(before) as temporary:
            temporary.write_bytes(b"half")
            raise error

    def write_folder() -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "one").write_bytes(b"x" * 2 * 10**6)
            raise error

    with pytest.raises(UserError, match=r"weights: the disk at /.* full: .* least 3\.0 MB; make"):
        replace_file()
    with pytest.raises(UserError, match=r"folder: the disk at /.* full: .* least 2\.0 MB; make"):
        write_folder()
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert before.stat().st_size == 3 * 10**6


def test_an_error_that_does_not_say_why_is_a_full_disk_where_nothing_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "state.pt"):
            raise RuntimeError("basic_ios::clear")

    with pytest.raises(RuntimeError, match="basic_ios"):
        write()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with pytest.raises(UserError, match=r"state\.pt: the disk at /.* is full: 0\.0 MB are free"):
        write()
