"""Writing results so that they appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mend.errors import UserError

if TYPE_CHECKING:
    import pyarrow


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    It is on the disk by then: a power cut leaves what was there before, or all that is new.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with _told_if_the_disk_is_full(path, temporary):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it replaces `path` if the block succeeds."""
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with _told_if_the_disk_is_full(path, temporary):
            yield temporary
            replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a power cut does not lose them."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def replace_folder(new: Path, path: Path) -> None:
    """Put a folder in another's place, once all that is in it is on the disk."""
    for folder, _, files in os.walk(new, topdown=False):
        for file in files:
            _sync(Path(folder) / file)
        sync_folder(Path(folder))
    if path.exists():
        shutil.rmtree(path)
    os.replace(new, path)
    sync_folder(path.parent)


def _sync(path: Path) -> None:
    """Have a file's content written to the disk itself."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk itself, where its file system can do that."""
    with suppress(OSError):
        _sync(folder)


@contextmanager
def _told_if_the_disk_is_full(path: Path, temporary: Path) -> Iterator[None]:
    """Raise UserError, naming the disk, for any error of writing that comes of a full one."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        free = shutil.disk_usage(path.parent).free
        # Some libraries have errors of their own, which do not say why they could not write.
        by_number = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not (by_number or "No space left" in str(error) or free < 2**20):
            raise
        # What was there before has about the size of what takes its place.
        size = max(_size(path), _size(temporary))
        disk = next(part for part in path.resolve().parents if os.path.ismount(part))
        raise UserError(
            f"{path}: the disk at {disk} is full: {free / 1e6:.1f} MB are free, and this takes at "
            f"least {size / 1e6:.1f} MB; make room, or set `results` to a folder on "
            "another disk, and start again: what is done is kept"
        ) from error


def _size(path: Path) -> int:
    """Return how many bytes a file, or the files of a folder, have; 0 if there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def write_text(text: str, path: str | Path) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: str | Path) -> None:
    """Write indented JSON with sorted keys atomically."""
    write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", path)


def read_json(path: str | Path) -> Any:
    """Read JSON; raises UserError naming the file and line if it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None


def write_parquet(table: pyarrow.Table, path: str | Path) -> None:
    """Write a Parquet file (zstd) atomically."""
    import pyarrow.parquet

    with atomic_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
