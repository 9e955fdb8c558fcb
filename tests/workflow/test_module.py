"""Another workflow that imports this one: `module` and `use rule * from`."""

from __future__ import annotations

import shutil

import pytest
import yaml
from helpers.workflow import Workflow

IMPORTING = """
configfile: "mine.yaml"

module mend:
    snakefile: "{folder}/Snakefile"
    config: config["mend"]

use rule * from mend as mend_*

rule mine:
    default_target: True
    input:
        rules.mend_tables.input,
"""


@pytest.fixture(scope="module")
def importing(workflow, tmp_path_factory) -> Workflow:
    """Another folder with a workflow that imports this one and runs it with a configuration."""
    folder = tmp_path_factory.mktemp("importing")
    (folder / "Snakefile").write_text(IMPORTING.format(folder=workflow.folder))
    (folder / "mine.yaml").write_text(yaml.safe_dump({"mend": workflow.values}))
    return Workflow(folder, {})


def test_its_dry_run_is_whole(importing) -> None:
    dry = importing.plain_snakemake("-n")
    assert dry.code == 0, dry.text[-2000:]
    assert "predicting: pocket-gpt2 vanilla-icl default all shots=16" in dry.jobs


def test_its_jobs_run_the_imported_package(importing, tmp_path) -> None:
    other = tmp_path / "mend"  # another one, which a job must not take for it
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('not the imported workflow')")
    # The last reads a model of the package, which a configuration names as in a clone.
    asked = ("results/table5.csv", "results/data/tasks", "results/data/chunks/pocket-gpt2.parquet")
    done = importing.plain_snakemake(*asked, PYTHONPATH=str(tmp_path))
    assert done.code == 0, done.text[-2000:]
    assert all((importing.folder / path).exists() for path in asked)
    shutil.rmtree(importing.folder / "results")
