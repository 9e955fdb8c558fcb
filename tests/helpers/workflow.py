"""A copy of the workflow at a toy size, and a way to call Snakemake in it."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "config.yaml", "config", "envs", "examples", "mend", "profiles", "workflow")


@dataclass
class Result:
    """What a call printed, and how it ended."""

    code: int
    text: str

    @property
    def jobs(self) -> set[str]:
        """The messages of the jobs that were run, or would be in a dry run."""
        return set(re.findall(r"^Job \d+: (.*)$", self.text, flags=re.MULTILINE))


@dataclass
class Workflow:
    """A copy of the repository's workflow."""

    folder: Path
    values: dict

    def snakemake(self, *arguments: str, values: dict | None = None, **environment) -> Result:
        """Call Snakemake with a configuration, by default the toy one."""
        file = self.folder / "toy.yaml"
        file.write_text(yaml.safe_dump(self.values if values is None else values))
        return self.plain_snakemake(*arguments, "--configfile", str(file), **environment)

    def plain_snakemake(self, *arguments: str, **environment) -> Result:
        """Call Snakemake with nothing but the arguments."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "8", *arguments],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Result(done.returncode, done.stdout)

    def with_value(self, key: str, value) -> dict:
        """Return the toy configuration with another value at a key such as a/b/c."""
        values = copy.deepcopy(self.values)
        *parents, last = key.split("/")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
        return values


@pytest.fixture(scope="module")
def workflow(tmp_path_factory) -> Workflow:
    """A copy of the repository without what it has made, and the default at a toy size."""
    return toy_workflow(tmp_path_factory.mktemp("workflow"))


def toy_workflow(folder: Path) -> Workflow:
    """Copy the repository without what it has made to a folder; the default at a toy size."""
    for part in PARTS:
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["pocket"]["documents"] = 40
    partitions = ["class_to_class", "qa_to_qa"]
    values["benchmark"].update(partitions=partitions, seeds=[13, 100], test_rows=4)
    small = {"steps": 4, "batch_size": 2, "checkpoint_every": 3, "log_every": 1}
    values["training"]["pretrain"].update(small, early_stopping=None)
    values["training"]["finetune"].update(small, queries_per_episode=1)
    values["training"]["finetune"]["early_stopping"] = {
        **{"every": 2, "patience": 2, "rows_per_task": 1, "seed": 100}
    }
    for method in values["methods"].values():
        for stage in ("pretrain", "finetune"):
            method.get(stage, {}).pop("steps", None)
            method.get(stage, {}).pop("batch_size", None)
    for part in ("figures", "efficiency", "attention"):
        values.pop(part)
    table2 = {**values["studies"]["table2"], "llms": ["pocket-gpt2"], "partitions": partitions[:1]}
    del table2["vary"]
    values["studies"] = {"table2": table2}
    return Workflow(folder, values)
