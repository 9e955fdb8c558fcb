"""Fetching plain files of a dataset from the Hugging Face hub, at one revision.

The hub's client does the work: it tries again, goes on with what an interrupted download left, and
keeps files in its cache, which is read where the hub cannot be reached. It heeds HF_ENDPOINT (a
mirror), HF_HOME (where the cache is), HF_TOKEN and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from mend.atomic_io import atomic_folder, write_json
from mend.configuration.specs.hub import BenchmarkDownload, FilesDownload, Source
from mend.data.layout import benchmark_files
from mend.errors import UserError

SOURCE_RECORD = "source.json"
"""Beside the files: {repository, revision (as asked), commit, files}."""


def download_benchmark(spec: BenchmarkDownload, output_folder: str | Path) -> None:
    """Download the tasks' files in MetaICL's layout; `output_folder` becomes a local benchmark.

    Args:
        spec: what is wanted; a branch or tag is resolved and its commit recorded.
        output_folder: replaced as a whole; also gets SOURCE_RECORD.

    Raises:
        UserError: if the hub cannot be reached and its cache does not have the files, the revision
            is unknown, files are missing (all are named), or the disk has no room.
    """
    files = benchmark_files(spec.train_tasks, spec.test_tasks, spec.seeds, spec.pool)
    _download(spec, [file.name for file in files], output_folder)


def download_files(spec: FilesDownload, output_folder: str | Path) -> None:
    """Download files with their folders, such as C4's `en/c4-validation.*.json.gz`.

    Raises:
        UserError: as `download_benchmark`; also if a pattern matches no file.
    """
    _download(spec, spec.files, output_folder)


def _download(spec: Source, patterns: Sequence[str], output_folder: str | Path) -> None:
    import huggingface_hub

    what = f"{spec.repository} at revision {spec.revision}"
    try:
        snapshot = Path(
            huggingface_hub.snapshot_download(
                spec.repository,
                repo_type="dataset",
                revision=spec.revision,
                allow_patterns=list(patterns),
            )
        )
        cached = [path for path in snapshot.rglob("*") if path.is_file()]
        names = _match(patterns, [path.relative_to(snapshot).as_posix() for path in cached], what)
        with atomic_folder(output_folder) as folder:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(snapshot / name, folder / name)
            record = {
                "repository": spec.repository,
                "revision": spec.revision,
                "commit": snapshot.name,
                "files": names,
            }
            write_json(record, folder / SOURCE_RECORD)
    except UserError:
        raise
    except Exception as error:  # what the client raises changes with its HTTP library
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"{what}: {error}; make room, put `results` on another disk, or name a folder on "
                "one for the hub's cache by the environment variable HF_HOME"
            ) from error
        raise UserError(
            f"{what} could not be downloaded from the Hugging Face hub ({type(error).__name__}: "
            f"{error}). Name a mirror by the environment variable HF_ENDPOINT, or copy the files "
            "to a folder and configure `source: folder`"
        ) from error


def _match(patterns: Sequence[str], available: Sequence[str], where: str) -> list[str]:
    """The available names that patterns choose; UserError names the patterns that choose none."""
    everything = set(available)
    chosen = {
        pattern: [pattern]
        if pattern in everything
        else sorted(name for name in available if "*" in pattern and fnmatch(name, pattern))
        for pattern in patterns
    }
    missing = [pattern for pattern, names in chosen.items() if not names]
    if missing:
        raise UserError(f"{where} has no files {', '.join(missing)}")
    return list(dict.fromkeys(name for names in chosen.values() for name in names))
