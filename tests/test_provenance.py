"""What results were made of, and inputs that were replaced under an old time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mend import provenance
from mend.atomic_io import write_json, write_parquet
from mend.provenance import changed_inputs, checksums, replaced_text


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, Path]:
    """Write rows, a Parquet file of them, weights and their record, predictions, and a table."""
    paths = {
        "rows": tmp_path / "data/rows.jsonl",
        "tasks": tmp_path / "results/tasks/one.parquet",
        "weights": tmp_path / "results/run/weights.safetensors",
        "predictions": tmp_path / "results/run/predictions.parquet",
        "table": tmp_path / "results/table2.details.json",
    }
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    paths["rows"].write_text("rows")
    some = pyarrow.table({"x": [1]})
    write_parquet(some, paths["tasks"], checksums([paths["rows"]], paths["tasks"]))
    paths["weights"].write_bytes(b"weights")
    record = paths["weights"].with_name("record.json")
    write_json({"made_of": checksums([paths["tasks"]], record)}, record)
    made_of = checksums([paths["tasks"], paths["weights"], None], paths["predictions"])
    write_parquet(some, paths["predictions"], made_of)
    made_of = checksums([paths["predictions"]], paths["table"])
    write_json({"claims": [], "made_of": made_of}, paths["table"])
    return paths


def replace_under_an_old_time(path: Path, content: bytes) -> None:
    """Do what `cp -p` and unpacking an archive do."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))
    os.replace(other, path)


def test_results_say_what_they_were_made_of(chain) -> None:
    found = json.loads(chain["table"].read_text())["made_of"]
    assert list(found) == ["run/predictions.parquet"]
    metadata = pyarrow.parquet.read_metadata(chain["predictions"]).metadata
    found = json.loads(metadata[b"mend"])
    assert list(found) == ["../tasks/one.parquet", "weights.safetensors"]
    assert found["weights.safetensors"] == hashlib.sha256(b"weights").hexdigest()


def test_what_is_as_it_was_is_not_read_again(chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*state) -> str:
        raise AssertionError("read")

    monkeypatch.setattr(provenance, "_checksum", fail)
    assert changed_inputs([chain["table"]]) == []


@pytest.mark.parametrize("name", ["rows", "weights"])
def test_an_input_that_is_replaced_under_an_old_time_is_found(chain, name: str) -> None:
    replace_under_an_old_time(chain[name], b"others")
    assert chain[name].stat().st_mtime < chain["table"].stat().st_mtime
    assert changed_inputs([chain["table"]]) == [str(chain[name])]
    told = replaced_text([str(chain[name])])
    assert f"{chain[name].name}: replaced" in told
    assert "`touch` it and run the workflow again" in told


def test_a_copy_of_the_same_is_no_other(chain) -> None:
    replace_under_an_old_time(chain["rows"], b"rows")
    assert changed_inputs([chain["table"]]) == []


def test_what_is_not_there_any_more_or_says_nothing_is_left_out(chain, tmp_path: Path) -> None:
    chain["rows"].unlink()
    (tmp_path / "old.parquet").write_bytes(b"no Parquet")
    assert changed_inputs([chain["table"], tmp_path / "old.parquet", tmp_path / "none"]) == []


def test_results_that_are_moved_as_a_whole_are_the_same(chain, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "results", tmp_path / "moved/results")
    shutil.copytree(tmp_path / "data", tmp_path / "moved/data")
    moved = tmp_path / "moved/results/table2.details.json"
    assert changed_inputs([moved]) == []
    replace_under_an_old_time(tmp_path / "moved/data/rows.jsonl", b"others")
    assert changed_inputs([moved]) == [str(tmp_path / "moved/data/rows.jsonl")]
    assert changed_inputs([chain["table"]]) == []
