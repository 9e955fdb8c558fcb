"""What `mend init` writes: a workflow that runs, and nobody's files written over."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.workflow import ROOT, Workflow

from mend import cli


def test_what_it_writes_runs(tmp_path: Path, capsys) -> None:
    assert cli.main(["init", str(tmp_path / "mine")]) == 0
    written = {Path(line) for line in capsys.readouterr().out.splitlines()}
    assert written == {path for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    mine = Workflow(tmp_path / "mine", {})
    dry = mine.plain_snakemake("-n", PYTHONPATH=str(ROOT))
    assert dry.code == 0, dry.text[-2000:]
    assert "predicting: my-llm mend default to-tickets shots=4" in dry.jobs
    asked = ("results/table1.html", "results/data/chunks/my-llm.parquet")
    done = mine.plain_snakemake(*asked, PYTHONPATH=str(ROOT))
    assert done.code == 0, done.text[-2000:]
    assert all((mine.folder / path).is_file() for path in asked)


@pytest.mark.parametrize("name", ["config.yaml", "Snakefile", "tasks/films.csv", "tasks"])
def test_what_is_there_stays(tmp_path: Path, caplog, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("my own")
    before = set(tmp_path.rglob("*"))
    assert cli.main(["init", str(tmp_path)]) == 2
    (line,) = caplog.messages
    assert str(mine) in line
    assert set(tmp_path.rglob("*")) == before
    assert mine.read_text() == "my own"
