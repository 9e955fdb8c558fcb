"""Downloading, with the hub replaced by a local folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from mend.data.hub import download_benchmark, download_corpus
from mend.data.tasks import import_tasks, load_rows
from mend.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
KEPT = ".benchmark.0123456789ab.download"
SPEC = {
    "repository": "someone/metaicl-data",
    "revision": "main",
    "train_tasks": ["free"],
    "test_tasks": ["kind:one"],
    "seeds": [13],
}


class LocalHub:
    """What mend.data.hub uses of huggingface_hub, over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.fails, self.faults = folder, [], 0, []

    def dataset_info(self, repository, revision):
        self.asked.append((repository, revision))
        if self.faults:
            raise self.faults.pop(0)
        return SimpleNamespace(sha=COMMIT)

    def list_repo_files(self, repository, repo_type, revision):
        assert (repo_type, revision) == ("dataset", COMMIT)
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def snapshot_download(self, repository, repo_type, revision, local_dir, allow_patterns):
        assert (repo_type, revision) == ("dataset", COMMIT)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        for count, name in enumerate(self.list_repo_files(repository, repo_type, revision)):
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                if self.fails and count >= self.fails:
                    raise ConnectionError("the line broke")
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / name, local_dir / name)

    def get_paths_info(self, repository, paths, revision, repo_type):
        assert (repo_type, revision) == ("dataset", COMMIT)
        for name in paths:
            data = (self.folder / name).read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            lfs = None
            if name.endswith(".gz"):
                lfs = SimpleNamespace(sha256=hashlib.sha256(data).hexdigest())
                blob = "a pointer's"
            yield SimpleNamespace(path=name, blob_id=blob, lfs=lfs, size=len(data))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> LocalHub:
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
    local = LocalHub(folder)
    monkeypatch.setattr("mend.data.hub.WAITS", (0, 0))
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: local)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", local.snapshot_download)
    return local


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_benchmark_becomes_a_local_folder(hub, tmp_path):
    output = tmp_path / "out" / "benchmark"
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
    assert hub.asked == [("someone/metaicl-data", "main")]
    assert {path.name for path in output.parent.iterdir()} == {"benchmark", KEPT}
    import_tasks(SPEC, output, tmp_path / "tasks")
    assert load_rows(tmp_path / "tasks", "kind:one").rows("test", 13) == [("i", "a", ["a", "b"])]


def test_an_old_folder_is_replaced(hub, tmp_path):
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "old").write_text("")
    download_benchmark(SPEC, tmp_path / "benchmark")
    assert not (tmp_path / "benchmark" / "old").exists()


def test_patterns_choose_corpus_files(hub, tmp_path):
    spec = {"repository": "someone/c4", "revision": COMMIT, "files": ["en/c4-validation.*.json.gz"]}
    download_corpus(spec, tmp_path / "corpus")
    assert files_of(tmp_path / "corpus") == {
        "en/c4-validation.00000.json.gz",
        "en/c4-validation.00001.json.gz",
        "source.json",
    }


def test_all_files_that_the_hub_lacks_are_named(hub, tmp_path):
    with pytest.raises(UserError) as raised:
        download_benchmark(
            {**SPEC, "train_tasks": ["free", "absent"], "seeds": [13, 42]}, tmp_path / "b"
        )
    for name in ("absent_16384_100_train", "kind:one_16_42_train", "kind:one_16_42_test"):
        assert name in str(raised.value)
    assert "free" not in str(raised.value)
    spec = {"repository": "someone/c4", "revision": "main", "files": ["fr/*.gz"]}
    with pytest.raises(UserError, match=r"has no files fr/\*\.gz"):
        download_corpus(spec, tmp_path / "corpus")
    assert not (tmp_path / "b").exists()


def test_a_revision_must_be_named(hub, tmp_path):
    with pytest.raises(UserError, match="name the revision"):
        download_benchmark({**SPEC, "revision": None}, tmp_path / "b")


@pytest.mark.parametrize(
    "name", ["data/free/free_16384_100_train.jsonl", "en/c4-validation.00001.json.gz"]
)
def test_a_damaged_file_is_found_and_fetched_again(hub, tmp_path, monkeypatch, name):
    whole = hub.snapshot_download

    def damaging(repository, local_dir, **rest):
        whole(repository, local_dir=local_dir, **rest)
        (local_dir / name).write_text("damaged")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", damaging)
    spec = {"repository": "r", "revision": "main", "files": [name]}
    with pytest.raises(UserError, match="its hash differs"):
        download_corpus(spec, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    (gathered,) = tmp_path.glob(".b.*.download")
    assert not (gathered / name).exists()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", whole)
    download_corpus(spec, tmp_path / "b")
    assert (tmp_path / "b" / name).read_bytes() == (hub.folder / name).read_bytes()


def test_an_interrupted_download_keeps_what_it_has(hub, tmp_path):
    hub.fails = 4
    with pytest.raises(UserError, match="ConnectionError: the line broke"):
        download_benchmark({**SPEC, "seeds": [13, 21]}, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    (gathered,) = tmp_path.glob(".b.*.download")
    assert any(name.endswith(".jsonl") for name in files_of(gathered))
    hub.fails = 0
    download_benchmark({**SPEC, "seeds": [13, 21]}, tmp_path / "b")
    assert len(files_of(tmp_path / "b")) == 1 + 6 + 1


def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    # The real client, and a port where nothing listens.
    real = huggingface_hub.HfApi
    monkeypatch.setattr("mend.data.hub.WAITS", (0,))
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint="http://127.0.0.1:9"))
    with pytest.raises(UserError) as raised:
        download_benchmark(SPEC, tmp_path / "b")
    assert "someone/metaicl-data at revision main could not be downloaded" in str(raised.value)
    assert "source: folder" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


class Answer(OSError):
    """An answer of the hub that is no success, as its client raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for a url")
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize("fault", [ConnectionError("reset"), TimeoutError(), Answer(503)])
def test_a_fault_that_passes_is_waited_for(hub, tmp_path, fault):
    hub.faults = [fault, fault]
    download_benchmark(SPEC, tmp_path / "b")
    assert len(hub.asked) == 3
    assert (tmp_path / "b" / "source.json").is_file()


@pytest.mark.parametrize(
    ("fault", "times"), [(ConnectionError("reset"), 3), (Answer(404), 1), (ValueError("no"), 1)]
)
def test_only_faults_that_may_pass_are_waited_for(hub, tmp_path, fault, times):
    hub.faults = [fault] * 9
    with pytest.raises(UserError, match="could not be downloaded"):
        download_benchmark(SPEC, tmp_path / "b")
    assert len(hub.asked) == times
    assert not (tmp_path / "b").exists()


def test_what_was_downloaded_is_not_downloaded_again(hub, tmp_path, monkeypatch):
    output = tmp_path / "benchmark"
    download_benchmark(SPEC, output)
    before = files_of(output)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    shutil.rmtree(output)  # as Snakemake does before a job runs again
    download_benchmark(SPEC, output)
    assert files_of(output) == before
    # The same commit by its own name: the hub is not even asked for it.
    record = tmp_path / KEPT / "source.json"
    record.write_text(record.read_text().replace('"main"', f'"{COMMIT}"'))
    asked = len(hub.asked)
    download_benchmark({**SPEC, "revision": COMMIT}, output)
    assert len(hub.asked) == asked


def test_a_dead_hub_does_not_stop_what_was_downloaded(hub, tmp_path, caplog):
    output = tmp_path / "benchmark"
    download_benchmark(SPEC, output)
    before = files_of(output)
    shutil.rmtree(output)
    hub.faults = [ConnectionError("no route")] * 9
    with caplog.at_level("WARNING"):
        download_benchmark(SPEC, output)
    assert files_of(output) == before
    assert "going on with what was downloaded before" in caplog.text


def test_offline_nothing_is_asked_of_the_hub(hub, tmp_path, monkeypatch):
    output = tmp_path / "benchmark"
    download_benchmark(SPEC, output)
    shutil.rmtree(output)
    hub.asked.clear()
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    download_benchmark(SPEC, output)
    assert not hub.asked
    assert (output / "data/free/free_16384_100_train.jsonl").is_file()
    with pytest.raises(UserError, match="was not downloaded before, and HF_HUB_OFFLINE"):
        download_benchmark({**SPEC, "seeds": [13, 21]}, output)
    assert not hub.asked


def test_a_file_that_was_changed_since_is_not_used(hub, tmp_path):
    output = tmp_path / "benchmark"
    download_benchmark(SPEC, output)
    changed = output / "data/free/free_16384_100_train.jsonl"
    changed.write_text("changed")  # a link: so is the gathered one
    download_benchmark(SPEC, output)
    assert changed.read_bytes() == (hub.folder / changed.relative_to(output)).read_bytes()


def test_a_full_disk_is_told_before_anything_is_downloaded(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(UserError, match=r"0\.00 GB are to be downloaded and 0\.00 GB are free"):
        download_benchmark(SPEC, tmp_path / "b")
    assert list(tmp_path.iterdir()) == [hub.folder]
