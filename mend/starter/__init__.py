"""The files that `mend init` writes: a configuration with comments, a Snakefile, two tasks."""

from __future__ import annotations

import os
from pathlib import Path

from mend.atomic_io import make_folder, write_text
from mend.errors import UserError

FILES = Path(__file__).parent / "files"


def write_starter(folder: str | Path) -> list[Path]:
    """Write the files into a folder, which may be there, and return their paths.

    Raises UserError, and writes nothing, if one of them is there already.
    """
    folder = Path(folder)
    sources = sorted(file for file in FILES.rglob("*") if file.is_file())
    made = {folder / file.relative_to(FILES): file for file in sources}
    for path in made:
        if os.path.lexists(path):
            raise UserError(f"{path}: it is there already, and stays; name a new folder")
    for part in (folder, folder / "tasks"):
        if os.path.lexists(part) and not part.is_dir():
            raise UserError(f"{part}: it is no folder; name another")
    make_folder(folder / "tasks")
    for path, file in made.items():
        write_text(file.read_text(encoding="utf-8"), path)
    return list(made)
