"""Writing results so that they appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mend.errors import UserError

if TYPE_CHECKING:
    import pyarrow


MADE = ".made-by-mend"
"""In each folder that is written: the names of its files. What lists more is not replaced."""


def check_replaceable(folder: str | Path) -> None:
    """Raise UserError unless a folder may be made here, or one that we made be replaced.

    One that is empty, or holds nothing but what we wrote into it, may be; nothing else is removed.
    """
    folder = Path(folder)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: there is a file or a link; remove it, or name another folder")
    found = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    ours = {MADE}
    if (folder / MADE).is_file() and not (folder / MADE).is_symlink():
        ours |= set((folder / MADE).read_text("utf-8", "replace").splitlines())
    if others := sorted(found - ours):
        raise UserError(
            f"{folder}: {others[0]} is in it, which this program did not write there, and a folder "
            "is replaced as a whole; name another, or remove it yourself"
        )


def check_file(path: str | Path, what: str = "file") -> None:
    """Raise UserError, naming it, unless a path is a regular file that can be opened.

    Reading a pipe or a device may wait, or go on, for ever. what: it is called in messages.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(
                f"{path}: cannot be read: it is a folder, a device or a pipe, no {what}"
            )
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise UserError(f"{path!r}: not the name of a {what}") from None


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
    """Yield a temporary folder beside `path`; it replaces `path` if the block succeeds.

    Raises UserError, before anything is written, as `check_replaceable`.
    """
    path = Path(path)
    check_replaceable(path)
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
    """Put a folder in another's place, once all that is in it is on the disk.

    Raises UserError as `check_replaceable`.
    """
    names = sorted(str(file.relative_to(new)) for file in new.rglob("*") if file.is_file())
    (new / MADE).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    check_replaceable(path)
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
    check_file(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except UnicodeError:
        raise UserError(f"{path}: not UTF-8, or it holds half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    return value


PARQUET = {"compression": "zstd", "write_page_checksum": True}
"""How all Parquet is written: damage to a page is noticed when it is read."""

MADE_OF = b"mend"
"""The key of a Parquet file's metadata that says what it was made of, and that we made it."""


def write_parquet(
    table: pyarrow.Table, path: str | Path, made_of: Mapping[str, str] | None = None
) -> None:
    """Write a Parquet file atomically; `made_of` is of `mend.provenance.checksums`."""
    import pyarrow.parquet

    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **made_by(made_of)})
    with atomic_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, **PARQUET)


def made_by(made_of: Mapping[str, str] | None = None) -> dict[bytes, bytes]:
    """Return the metadata of a Parquet file of ours."""
    return {MADE_OF: json.dumps(made_of or {}, sort_keys=True).encode()}
