"""Downloading with the hub's real client, from a mirror that serves a local folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from mend.atomic_io import MADE
from mend.configuration.specs.hub import BenchmarkDownload, FilesDownload
from mend.data.hub import download_benchmark, download_files
from mend.data.tasks import import_tasks, load_rows
from mend.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPEC = BenchmarkDownload(
    repository="someone/metaicl-data",
    revision="main",
    train_tasks=["free"],
    test_tasks=["kind:one"],
    seeds=[13],
)
NOBODY = "http://127.0.0.1:9"  # where nothing listens


class Mirror(ThreadingHTTPServer):
    """A hub of one dataset, whose only revisions are main and its commit."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.folder, self.asked = folder, []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    """Answers what the client asks for: a revision, the list of files, a file."""

    protocol_version = "HTTP/1.1"
    server: Mirror

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        _, _, rest = path.partition("someone/metaicl-data/")
        what, _, name = rest.partition("/")
        revision, _, file = name.partition("/")
        if revision not in ("main", COMMIT):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif what == "revision":
            self.answer(200, json.dumps({"id": "someone/metaicl-data", "sha": COMMIT}).encode())
        elif what == "tree":
            self.answer(200, json.dumps([self.entry(path) for path in self.files()]).encode())
        else:
            content = (self.server.folder / file).read_bytes()
            etag = hashlib.sha1(content).hexdigest()
            self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    def files(self) -> list[Path]:
        return sorted(path for path in self.server.folder.rglob("*") if path.is_file())

    def entry(self, path: Path) -> dict:
        content = path.read_bytes()
        name = path.relative_to(self.server.folder).as_posix()
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


def use_endpoint(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Do what HF_ENDPOINT does in a new process."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    template = template.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    folder = tmp_path / "hub"
    row = {"task": "t", "input": "i", "output": "a", "options": ["a", "b"]}
    names = ["free/free_16384_100_train", "other/other_16384_100_train"]
    names += [f"kind:one/kind:one_16_{s}_{p}" for s in (13, 21) for p in ("train", "dev", "test")]
    for name in names:
        path = folder / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row) + "\n")
    for name in ("en/c4-validation.00000.json.gz", "en/c4-validation.00001.json.gz", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    server = Mirror(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_endpoint(monkeypatch, server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def corpus(*files: str, revision: str = "main") -> FilesDownload:
    return FilesDownload(repository=SPEC.repository, revision=revision, files=list(files))


def files_of(folder: Path) -> set[str]:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - {MADE}


def test_a_benchmark_becomes_a_local_folder(mirror, tmp_path):
    output = tmp_path / "out" / "benchmark"
    download_benchmark(SPEC, output)
    (output / "mine").write_text("the user's")
    with pytest.raises(UserError, match="benchmark: mine is in it"):
        download_benchmark(SPEC, output)
    assert (output / "mine").read_text() == "the user's"
    (output / "mine").unlink()
    download_benchmark(SPEC, output)
    wanted = ["data/free/free_16384_100_train.jsonl"]
    wanted += [f"data/kind:one/kind:one_16_13_{split}.jsonl" for split in ("train", "dev", "test")]
    assert files_of(output) == {*wanted, "source.json"}
    assert json.loads((output / "source.json").read_text()) == {
        "repository": "someone/metaicl-data",
        "revision": "main",
        "commit": COMMIT,
        "files": wanted,
    }
    import_tasks(SPEC, output, tmp_path / "tasks")
    assert load_rows(tmp_path / "tasks", "kind:one").rows("test", 13) == [("i", "a", ["a", "b"])]


def test_patterns_choose_corpus_files(mirror, tmp_path):
    download_files(corpus("en/c4-validation.*.json.gz", revision=COMMIT), tmp_path / "corpus")
    assert files_of(tmp_path / "corpus") == {
        "en/c4-validation.00000.json.gz",
        "en/c4-validation.00001.json.gz",
        "source.json",
    }
    assert json.loads((tmp_path / "corpus/source.json").read_text())["commit"] == COMMIT


def test_all_files_that_the_hub_lacks_are_named(mirror, tmp_path):
    changed = {"train_tasks": ["free", "absent"], "seeds": [13, 42]}
    with pytest.raises(UserError) as raised:
        download_benchmark(SPEC.model_copy(update=changed), tmp_path / "b")
    for name in ("absent_16384_100_train", "kind:one_16_42_train", "kind:one_16_42_test"):
        assert name in str(raised.value)
    assert "free" not in str(raised.value)
    with pytest.raises(UserError, match=r"has no files fr/\*\.gz"):
        download_files(corpus("fr/*.gz"), tmp_path / "corpus")
    assert not (tmp_path / "b").exists()


def test_a_revision_must_be_known(mirror, tmp_path):
    with pytest.raises(UserError, match=r"at revision v9 could not be.*RevisionNotFound"):
        download_benchmark(SPEC.model_copy(update={"revision": "v9"}), tmp_path / "b")


def test_what_was_downloaded_is_not_downloaded_again(mirror, tmp_path):
    output = tmp_path / "benchmark"
    download_benchmark(SPEC, output)
    before = files_of(output)
    shutil.rmtree(output)  # as Snakemake does before a job runs again
    mirror.asked.clear()
    download_benchmark(SPEC, output)
    assert files_of(output) == before
    assert not any("resolve" in path for path in mirror.asked)


def test_without_the_hub_its_cache_is_read(mirror, tmp_path, monkeypatch):
    download_benchmark(SPEC, tmp_path / "b")
    before = files_of(tmp_path / "b")
    use_endpoint(monkeypatch, NOBODY)
    download_benchmark(SPEC, tmp_path / "again")
    assert files_of(tmp_path / "again") == before
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    download_benchmark(SPEC, tmp_path / "offline")
    assert files_of(tmp_path / "offline") == before
    with pytest.raises(UserError, match=r"could not be downloaded.*kind:one_16_21_dev"):
        download_benchmark(SPEC.model_copy(update={"seeds": [13, 21]}), tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_without_hub_and_cache_the_message_says_what_to_do(mirror, tmp_path, monkeypatch):
    use_endpoint(monkeypatch, NOBODY)
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(UserError) as raised:
            download_benchmark(SPEC, tmp_path / "b")
        message = str(raised.value)
        assert "someone/metaicl-data at revision main could not be downloaded" in message
        assert "source: folder" in message
        assert ("HF_HUB_OFFLINE" in message) == offline
    assert not (tmp_path / "b").exists()


def test_a_full_disk_is_told(mirror, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError, match=r"the disk at .* is full.*make room"):
        download_benchmark(SPEC, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_full_disk_of_the_hubs_cache_is_told(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(UserError, match=r"No space left on device.*make room.*HF_HOME"):
        download_benchmark(SPEC, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_environment_names_a_mirror(mirror, tmp_path):
    spec = tmp_path / "spec.json"
    spec.write_text(SPEC.model_dump_json())
    command = ["download-benchmark", "--spec", str(spec), "--output", str(tmp_path / "b")]
    environment = {
        **os.environ,
        "HF_ENDPOINT": mirror.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    subprocess.run([sys.executable, "-m", "mend", *command], env=environment, check=True)
    assert "/api/datasets/someone/metaicl-data/revision/main" in mirror.asked
    assert (tmp_path / "b/source.json").is_file()
