"""Power cuts, imitated: what was not written to the disk itself is lost.

A process that `record_syncs` has been called in keeps, in a folder beside, what each file held when
it was last synced, and which names each folder had. After it was killed `cut_power` puts a folder
into a state that a disk could be in: files that were not synced are cut or gone, and names that
changed since their folder was synced are the old ones or the new ones.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from pathlib import Path


def record_syncs(disk: Path) -> None:
    """Note what is synced from now on in this process."""
    disk.mkdir(exist_ok=True)

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(status.st_mode):
            names = {entry.name: _version(Path(entry.path)) for entry in os.scandir(path)}
            _appear(disk / _folder(path), json.dumps(names).encode())
        else:
            _appear(disk / _version(path), path.read_bytes())

    os.fsync = fsync


def _appear(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"new-{os.getpid()}")
    temporary.write_bytes(content)
    temporary.rename(path)


def _folder(path: Path) -> str:
    """Which folder it is, whatever it is called: what it holds is synced before it has its name."""
    return f"folder-{path.stat().st_ino}"


def _version(path: Path) -> str:
    """Which content of which file a name stands for."""
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def cut_power(folder: Path, disk: Path, draw: random.Random) -> int:
    """Lose what was not synced of a folder, and of all in it; return how many things were lost."""
    lost = 0
    known = disk / _folder(folder)
    before = json.loads(known.read_bytes()) if known.exists() else {}
    now = {path.name: _version(path) for path in folder.iterdir()}
    for name in sorted(before.keys() | now.keys()):
        path, old, new = folder / name, before.get(name), now.get(name)
        kept = old if old != new and draw.random() < 0.5 else new
        lost += kept != new
        if kept == "folder" and path.is_dir():
            lost += cut_power(path, disk, draw)
        elif kept is None or kept == "folder":
            _remove(path)
        elif (disk / kept).exists():
            if kept != new:
                _remove(path)
                path.write_bytes((disk / kept).read_bytes())
        else:  # its content never came to the disk
            content = path.read_bytes() if path.is_file() else b""
            _remove(path)
            path.write_bytes(content[: draw.randrange(len(content) + 1)])
            lost += 1
    return lost


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
