"""Made-up faults: whatever a configuration holds, it is a valid run or refused in clear lines."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import yaml
from helpers.all_jobs import checked_specifications
from helpers.configurations import ROOT
from helpers.fuzzing import fuzzed, within
from helpers.mutations import mutated
from hypothesis import given
from hypothesis import strategies as st

from mend.configuration.choices import PARTITIONS
from mend.configuration.loading import Configuration, load_configuration, read_values
from mend.data.layout import benchmark_files
from mend.data.preflight import with_present_tasks
from mend.errors import UserError

SECONDS, LONGEST_LINE = 10, 400
BASES = ("config.yaml", "config/metaicl-local.yaml", "config/paper.yaml", "config/pool-100.yaml")


def hostile_folder(folder: Path) -> None:
    """Fill a folder with the repository's files that a configuration names, and with traps."""
    for name in ("mend", "config", "config.yaml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "unreadable").touch(mode=0)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    with (folder / "big").open("wb") as file:
        file.truncate(2**40)
    tasks = {"learn": "train", "also-learn": "train", "ask": "test", "also-ask": "test"}
    with (folder / "list.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["task", "type", "options", *PARTITIONS])
        for name, role in tasks.items():
            lines.writerow([name, "classification", "", *([role] * len(PARTITIONS))])
    names = [[name for name in tasks if tasks[name] == role] for role in ("train", "test")]
    row = {"task": "any", "input": "a word", "output": "yes", "options": ["yes", "no"]}
    for file in benchmark_files(*names, [13, 21, 42, 87, 100]):
        path = folder / "rows" / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{json.dumps(row)}\n" * 20)


def base_values() -> dict[str, dict]:
    """Return the repository's configurations, the one of a local folder with rows."""
    found = {name: yaml.safe_load((ROOT / name).read_text()) for name in BASES[:3]}
    found["config/pool-100.yaml"] = read_values(ROOT / BASES[2], ROOT / BASES[3])
    local = found["config/metaicl-local.yaml"]["benchmark"]
    local["tasks"]["folder"], local["task_list"] = "rows", "list.csv"
    return found


def read(values: dict) -> Configuration:
    """Read a configuration as the Snakefile does."""
    return with_present_tasks(load_configuration(values, ["some.yaml"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("configurations")
    hostile_folder(folder)
    return folder


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch) -> None:
    (folder / "some.yaml").write_text("{}\n")
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("name", BASES)
def test_every_job_of_a_good_configuration_has_a_whole_specification(name) -> None:
    assert len(checked_specifications(read(base_values()[name]))) > 20


@fuzzed(150)
@given(st.data())
def test_a_changed_configuration_is_refused_in_clear_lines_or_its_jobs_are_whole(
    data,
) -> None:
    name, values = data.draw(mutated(base_values()))
    with within(SECONDS):
        try:
            configuration = read(values)
        except UserError as error:
            lines = str(error).splitlines()
            assert lines
            assert all(line.strip() and len(line) <= LONGEST_LINE for line in lines)
            return
        assert checked_specifications(configuration), name
