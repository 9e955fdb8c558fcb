"""Whether the results folder can be one: its name, and what is there already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mend.configuration.schema import ConfigurationValues

MADE = (
    *("data", "runs", "logs", "benchmarks", "local-models", "pocket-models"),
    *("efficiency", "attention", "divergence", "gguf-models"),
)
"""Folders within it."""

ROOT = Path(__file__).parents[2]
OWN = ("config", "docs", "envs", "mend", "profiles", "tests", "workflow")
"""Folders of this software."""


def results_problem(values: ConfigurationValues) -> Iterator[str]:
    """Yield why the results folder cannot be where the configuration says, if it cannot."""
    name = values.results.rstrip("/")
    if ".." in name.split("/") or name != os.path.normpath(name) or name in ("", ".", ".."):
        yield f"{values.results} is no plain path of a folder; leave out . and .., write it whole"
        return
    if set(name) & set("*?["):
        yield f"{values.results} has letters that patterns have (*, ?, [); choose another name"
        return
    folder = Path(os.path.realpath(name))
    if (
        folder.is_relative_to("/dev")
        or folder.is_relative_to("/proc")
        or folder.is_relative_to("/sys")
    ):
        yield f"{values.results} is the system's; choose another folder"
    elif ROOT.is_relative_to(folder) or any(folder.is_relative_to(ROOT / part) for part in OWN):
        yield f"{values.results} has this software's own files; choose another folder"
    elif Path.cwd().is_relative_to(folder):
        yield f"{values.results} is where the workflow is started from; choose a folder within it"
    else:
        yield from _problem_there(values, folder)


def _problem_there(values: ConfigurationValues, folder: Path) -> Iterator[str]:
    rows = values.benchmark.tasks.folder
    if rows and Path(os.path.realpath(rows)) in (folder, folder / "data"):
        yield f"{values.results} has the rows of benchmark.tasks.folder; choose another folder"
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    if not os.path.isdir(there):
        yield f"{there} is no folder; choose another name"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"{there} cannot be written to; choose another folder, or ask for its permission"
    elif there == folder and not os.path.isdir(folder / "logs"):
        others = [*folder.glob("[!.]*.*"), *folder.glob("data/*/")]
        if found := sorted(str(path) for path in others if path.is_file() or path.parent != folder):
            yield (
                f"{values.results} has what this workflow did not make ({found[0]}), and it might "
                "write over that; choose a new folder"
            )
