"""Fetching plain files of a dataset from the Hugging Face hub, at one revision, checked by hash.

No dataset script is run and the `datasets` package is not needed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mend.data.layout import benchmark_files
from mend.errors import UserError
from mend.progress import Progress, logger
from mend.records import write_json

SOURCE_RECORD = "source.json"
"""Beside the files: {repository, revision (as asked), commit, files}."""

_ASK = 500  # files whose hashes are asked for at once


def download_benchmark(spec: Mapping[str, Any], output_folder: str | Path) -> None:
    """Download the tasks' files in MetaICL's layout; `output_folder` becomes a local benchmark.

    An interrupted download goes on where it stopped: it gathers beside the output folder.

    Args:
        spec: {"repository": such as "allenai/metaicl-data", "revision": a commit (a branch or tag
            is resolved and its commit recorded), "train_tasks", "test_tasks", "seeds", "pool": as
            in `tasks.import_tasks`}.
        output_folder: replaced as a whole; also gets SOURCE_RECORD.

    Raises:
        UserError: if the hub cannot be reached, the revision is unknown, a file is missing (all are
            named) or differs from the hub's hash.
    """
    names = ("train_tasks", "test_tasks", "seeds")
    files = benchmark_files(*(spec[name] for name in names), spec.get("pool"))
    _download(spec, [file.name for file in files], output_folder)


def download_corpus(spec: Mapping[str, Any], output_folder: str | Path) -> None:
    """Download a corpus' files, with their folders, such as C4's `en/c4-validation.*.json.gz`.

    Args:
        spec: {"repository": such as "allenai/c4", "revision", "files": names or patterns with *}.
        output_folder: as in `download_benchmark`.

    Raises:
        UserError: as `download_benchmark`; also if a pattern matches no file.
    """
    _download(spec, spec["files"], output_folder)


def _download(spec: Mapping[str, Any], patterns: Sequence[str], output_folder: str | Path) -> None:
    import huggingface_hub

    repository, revision = spec["repository"], spec["revision"]
    if not revision:
        raise UserError(f"{repository}: name the revision to download, so that it can be repeated")
    output = Path(output_folder)
    hub = huggingface_hub.HfApi()
    with _explaining(f"{repository} at revision {revision}"):
        commit = hub.dataset_info(repository, revision=revision).sha
        available = hub.list_repo_files(repository, repo_type="dataset", revision=commit)
    names = _match(patterns, available, f"{repository} at revision {revision}")
    gathered = output.with_name(f".{output.name}.{commit[:12]}.download")
    logger.info("downloading %d files of %s at %s", len(names), repository, commit)
    with _explaining(f"{repository} at revision {revision}"):
        huggingface_hub.snapshot_download(
            repository,
            repo_type="dataset",
            revision=commit,
            local_dir=gathered,
            allow_patterns=names,
        )
        _check_hashes(hub, repository, commit, gathered, names)
    record = {"repository": repository, "revision": revision, "commit": commit, "files": names}
    write_json(record, gathered / SOURCE_RECORD)
    shutil.rmtree(gathered / ".cache", ignore_errors=True)
    if output.exists():
        shutil.rmtree(output)
    os.replace(gathered, output)


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Turn whatever the hub's client raises (its HTTP library changes) into a message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{what} could not be downloaded from the Hugging Face hub ({type(error).__name__}: "
            f"{error}). Without a network, copy the files to a folder and configure "
            "`source: folder`"
        ) from error


def _match(patterns: Sequence[str], available: Sequence[str], where: str) -> list[str]:
    """The available names that patterns choose; UserError names the patterns that choose none."""
    everything = set(available)
    names: dict[str, None] = {}
    unmatched = []
    for pattern in patterns:
        matches = [pattern] if pattern in everything else []
        if not matches and "*" in pattern:
            matches = sorted(name for name in available if fnmatch(name, pattern))
        if not matches:
            unmatched.append(pattern)
        names.update(dict.fromkeys(matches))
    if unmatched:
        raise UserError(f"{where} has no files {', '.join(unmatched)}")
    return list(names)


def _check_hashes(hub: Any, repository: str, commit: str, folder: Path, names: list[str]) -> None:
    """Compare every file with the hub's SHA-256 (large files) or git blob SHA-1 (the others)."""
    progress = Progress("checking hashes", len(names))
    for start in range(0, len(names), _ASK):
        part = names[start : start + _ASK]
        for entry in hub.get_paths_info(repository, part, revision=commit, repo_type="dataset"):
            path = folder / entry.path
            if entry.lfs is not None:
                expected, digest = entry.lfs.sha256, hashlib.sha256()
            else:
                expected, digest = entry.blob_id, hashlib.sha1(usedforsecurity=False)
                digest.update(b"blob %d\0" % path.stat().st_size)
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            if digest.hexdigest() != expected:
                path.unlink()
                raise UserError(f"{path}: damaged on the way (its hash differs); download it again")
        progress.update(start + len(part))
