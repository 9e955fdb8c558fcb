"""Event files hold what the metrics do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mend.cli import main
from mend.errors import UserError
from mend.reporting.tensorboard import write_events


def write(folder: Path, steps: int) -> None:
    folder.mkdir(parents=True)
    rows = [{"step": step, "loss": 1 / step} for step in range(1, steps + 1)]
    rows[-1]["dev_score"] = 50.0
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_every_run_is_shown_whether_done_or_not(tmp_path: Path) -> None:
    write(tmp_path / "results/a/pretrain", 3)
    write(tmp_path / "results/a/pretrain.checkpoint", 2)
    write(tmp_path / "results/b/pretrain.checkpoint", 1)
    write(tmp_path / "results/b/.pretrain.17.partial", 5)
    events = tmp_path / "events"
    command = ["tensorboard", "--results", str(tmp_path / "results"), "--output", str(events)]
    for _ in range(2):  # the second time it replaces the first
        assert main(command) == 0
        assert scalars(events / "a/pretrain", "loss") == [
            (1, 1.0),
            (2, 0.5),
            (3, pytest.approx(1 / 3)),
        ]
        assert scalars(events / "a/pretrain", "dev_score") == [(3, 50.0)]
        assert scalars(events / "b/pretrain", "loss") == [(1, 1.0)]
        assert sorted(path.name for path in (events / "b").iterdir()) == ["pretrain"]


def test_a_folder_without_runs_and_a_broken_line_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metrics.jsonl in it"):
        write_events(tmp_path, tmp_path / "events")
    write(tmp_path / "run", 2)
    with open(tmp_path / "run/metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')
    with pytest.raises(UserError, match=r"run/metrics.jsonl, line 3: not JSON"):
        write_events(tmp_path, tmp_path / "events")
    assert not (tmp_path / "events").exists()
