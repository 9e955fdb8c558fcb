"""Fetching plain files of a dataset from the Hugging Face hub, at one revision, checked by hash.

No dataset script is run and the `datasets` package is not needed. The hub's client reads the
environment variables HF_ENDPOINT (a mirror), HF_TOKEN and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

from mend.atomic_io import read_json, whole_folder, write_json
from mend.data.layout import benchmark_files
from mend.errors import UserError
from mend.progress import Progress, logger

SOURCE_RECORD = "source.json"
"""Beside the files: {repository, revision (as asked), commit, files}."""

WAITS = (2, 8, 32, 128)
"""Seconds before asking a hub again that does not answer."""

_DIGESTS = ".hashes.json"  # beside the gathered files: {name: hash}
_ASK = 500  # files whose sizes and hashes are asked for at once

Answer = TypeVar("Answer")


def download_benchmark(spec: Mapping[str, Any], output_folder: str | Path) -> None:
    """Download the tasks' files in MetaICL's layout; `output_folder` becomes a local benchmark.

    An interrupted download goes on where it stopped: it gathers beside the output folder. Files
    that were downloaded before are taken from there; with HF_HUB_OFFLINE=1 nothing else is tried.

    Args:
        spec: {"repository": such as "allenai/metaicl-data", "revision": a commit (a branch or tag
            is resolved and its commit recorded), "train_tasks", "test_tasks", "seeds", "pool": as
            in `tasks.import_tasks`}.
        output_folder: replaced as a whole; also gets SOURCE_RECORD.

    Raises:
        UserError: if the hub cannot be reached, the revision is unknown, a file is missing (all are
            named) or differs from the hub's hash, or the disk has no room.
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
    """Fill the output folder from the hub, or from what was downloaded before.

    Files gather in a hidden folder beside the output, which stays: the output's files are links to
    its. So a job that runs again (Snakemake removes its output first) downloads nothing twice.
    """
    from huggingface_hub import is_offline_mode

    repository, revision = spec["repository"], spec["revision"]
    if not revision:
        raise UserError(f"{repository}: name the revision to download, so that it can be repeated")
    output = Path(output_folder)
    what = f"{repository} at revision {revision}"
    kept = _kept(output, spec, patterns)
    if is_offline_mode():
        if kept is None:
            raise UserError(
                f"{what} was not downloaded before, and HF_HUB_OFFLINE forbids it now; unset it, "
                "or copy the files to a folder and configure `source: folder`"
            )
    elif kept is None or read_json(kept / SOURCE_RECORD)["commit"] != revision:
        # A branch may have moved on since; a commit stays what it is.
        try:
            kept = _fetch(spec, patterns, output, kept)
        except UserError as error:
            if kept is None or not isinstance(error.__cause__, Unreachable):
                raise
            logger.warning("%s; going on with what was downloaded before", error)
    _link(kept, output)
    for old in _gathering_places(output):
        if old != kept:
            shutil.rmtree(old)


def _fetch(
    spec: Mapping[str, Any], patterns: Sequence[str], output: Path, kept: Path | None
) -> Path:
    """Download what is not there yet and return its folder."""
    import huggingface_hub

    repository, revision = spec["repository"], spec["revision"]
    hub = huggingface_hub.HfApi()
    with _explaining(f"{repository} at revision {revision}"):
        commit = _persistently(lambda: hub.dataset_info(repository, revision=revision).sha)
        if kept is not None and read_json(kept / SOURCE_RECORD)["commit"] == commit:
            return kept
        available = _persistently(
            lambda: hub.list_repo_files(repository, repo_type="dataset", revision=commit)
        )
        names = _match(patterns, available, f"{repository} at revision {revision}")
        gathered = output.with_name(f".{output.name}.{commit[:12]}.download")
        entries = [
            entry
            for start in range(0, len(names), _ASK)
            for entry in _persistently(
                lambda part=names[start : start + _ASK]: list(
                    hub.get_paths_info(repository, part, revision=commit, repo_type="dataset")
                )
            )
        ]
        size = _check_space(entries, gathered)
        logger.info(
            "downloading %d files, %.2f GB, of %s at %s", len(names), size / 1e9, repository, commit
        )
        _persistently(
            lambda: huggingface_hub.snapshot_download(
                repository,
                repo_type="dataset",
                revision=commit,
                local_dir=gathered,
                allow_patterns=names,
            )
        )
        digests = _check_hashes(entries, gathered)
    record = {"repository": repository, "revision": revision, "commit": commit, "files": names}
    write_json(digests, gathered / _DIGESTS)
    write_json(record, gathered / SOURCE_RECORD)
    shutil.rmtree(gathered / ".cache", ignore_errors=True)
    return gathered


def _gathering_places(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f".{escape(output.name)}.*.download"))


def _kept(output: Path, spec: Mapping[str, Any], patterns: Sequence[str]) -> Path | None:
    """Return the folder where all files were gathered before, if they are still as they were."""
    for folder in _gathering_places(output):
        if not (folder / SOURCE_RECORD).is_file():
            continue  # interrupted
        record, digests = read_json(folder / SOURCE_RECORD), read_json(folder / _DIGESTS)
        same = all(record[key] == spec[key] for key in ("repository", "revision"))
        whole = set(record["files"]) == set(digests) and all(
            any(_chooses(pattern, name) for name in digests) for pattern in patterns
        )
        if same and whole:
            paths = ((folder / name, digest) for name, digest in digests.items())
            if all(path.is_file() and _digest(path, digest) == digest for path, digest in paths):
                return folder
    return None


def _link(gathered: Path, output: Path) -> None:
    """Make the output folder of links to the gathered files, or copies where links cannot be."""
    with whole_folder(output) as folder:
        for name in [*read_json(gathered / SOURCE_RECORD)["files"], SOURCE_RECORD]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(gathered / name, folder / name)
            except OSError:
                shutil.copy2(gathered / name, folder / name)


def _check_space(entries: Sequence[Any], gathered: Path) -> int:
    """Return the bytes that are still to come; raises UserError if there is no room for them."""
    needed = 0
    for entry in entries:
        path = gathered / entry.path
        if not (path.is_file() and path.stat().st_size == entry.size):
            needed += entry.size
    folder = next(parent for parent in gathered.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {needed / 1e9:.2f} GB are to be downloaded and {free / 1e9:.2f} GB are "
            "free; make room, or put `results` on another disk"
        )
    return needed


class Unreachable(Exception):
    """The hub could not be reached, however often it was asked."""


def _persistently(ask: Callable[[], Answer]) -> Answer:
    """Ask the hub; after a fault that may pass, ask again a while later.

    Raises Unreachable from the last such fault, and any other error as it is.
    """
    for seconds in (*WAITS, None):
        try:
            return ask()
        except Exception as error:
            if not _may_pass(error):
                raise
            if seconds is None:
                raise Unreachable(f"{type(error).__name__}: {error}") from error
            logger.warning("%s; trying again in %d s", str(error).split("\n")[0], seconds)
            time.sleep(seconds)
    raise AssertionError


def _may_pass(error: Exception) -> bool:
    """Whether an error is of the network, or of a hub that is busy or broken for the moment."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in (408, 429) or response.status_code >= 500
    # The client's HTTP library changes; all its errors that have no response are of the network.
    libraries = {kind.__module__.split(".")[0].rstrip("0123456789") for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(
        libraries & {"httpx", "requests", "urllib"}
    )


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Turn whatever the hub's client raises (its HTTP library changes) into a message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = str(error) if isinstance(error, Unreachable) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{what} could not be downloaded from the Hugging Face hub ({told}). Name a mirror by "
            "the environment variable HF_ENDPOINT, or copy the files to a folder and configure "
            "`source: folder`"
        ) from error


def _chooses(pattern: str, name: str) -> bool:
    return pattern == name or ("*" in pattern and fnmatch(name, pattern))


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


def _check_hashes(entries: Sequence[Any], folder: Path) -> dict[str, str]:
    """Compare every file with the hub's SHA-256 (large files) or git blob SHA-1 (the others).

    Returns {name: hash}.
    """
    progress = Progress("checking hashes", len(entries))
    digests = {}
    for number, entry in enumerate(entries, 1):
        path = folder / entry.path
        expected = entry.blob_id if entry.lfs is None else entry.lfs.sha256
        if _digest(path, expected) != expected:
            path.unlink()
            raise UserError(f"{path}: damaged on the way (its hash differs); download it again")
        digests[entry.path] = expected
        progress.update(number)
    return digests


def _digest(path: Path, like: str) -> str:
    """Return a file's SHA-256, or its git blob SHA-1 if `like` is one."""
    digest = hashlib.sha256()
    if len(like) == 40:
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
