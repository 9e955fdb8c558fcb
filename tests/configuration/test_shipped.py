"""The configurations that come with the project fit together, and need nothing that is not here."""

from __future__ import annotations

import csv
import re

import pytest
from helpers.all_jobs import checked_specifications
from helpers.configurations import ROOT

from mend.configuration.loading import read_configuration
from mend.planning.plan import plan_text


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "files",
    [
        ["config.yaml"],
        ["config.yaml", "config/pocket-sealed.yaml"],
        ["config.yaml", "config/pocket-wrong.yaml"],
        ["config.yaml", "config/own-data.yaml"],
        ["config/paper.yaml"],
        ["config/paper.yaml", "config/pool-100.yaml"],
        ["config/smollm2.yaml"],
        ["config/smollm2.yaml", "config/smollm2-laptop.yaml"],
        ["config/smollm2.yaml", "config/gemma3.yaml"],
    ],
    ids=lambda files: files[-1],
)
def test_every_job_of_a_configuration_can_be_told_and_planned(files: list[str]) -> None:
    configuration = read_configuration(*files)
    assert checked_specifications(configuration)
    assert "estimates, nothing was run" in plan_text(configuration)


def test_small_models_need_the_packages_that_their_requirements_name() -> None:
    for name, files in {"smollm2": [], "gemma3": ["config/gemma3.yaml"]}.items():
        values = read_configuration("config/smollm2.yaml", *files).values
        [llm] = values.studies["table2"].llms
        model = values.gguf_models[values.llms[llm].path.rpartition("/")[2]]
        lines = (ROOT / f"envs/requirements-{name}.txt").read_text().splitlines()
        packages = {line.partition("==")[0] for line in lines if "==" in line}
        of_files = {file.partition("/")[0].replace("_", "-") for file in model.files}
        assert packages == of_files | {"gguf"}


def test_what_is_merged_over_smollm2_changes_every_study() -> None:
    whole = read_configuration("config/smollm2.yaml").values
    assert {"table2", "all-partitions", "equal-tokens", "tokens"} == set(whole.studies)
    assert whole.studies["table2"].vary == {"training.seed": [0, 1, 2]}
    laptop = read_configuration("config/smollm2.yaml", "config/smollm2-laptop.yaml").values
    for study in laptop.studies.values():
        assert study.partitions == ["hr_to_lr"]
        assert study.vary["training.seed"] == [0]


def test_smollm2s_compressors_have_the_budgets_of_table_2() -> None:
    values = read_configuration("config/smollm2.yaml", "config/smollm2-compressors.yaml").values
    study = values.studies["compressors"]
    budget = values.methods["mend"].length
    assert study.vary["budget"]["50"] == {}
    for run in study.runs.values():
        method = values.methods[run.method]
        own = [getattr(method, name, budget) for name in ("length", "keep")]
        assert own == [budget, budget]


def test_the_laptops_tasks_are_metaicls() -> None:
    def rows(path: str) -> dict[str, dict]:
        with open(ROOT / path, encoding="utf-8", newline="") as file:
            return {row["task"]: row for row in csv.DictReader(file)}

    listed = rows("mend/data/metaicl_tasks.csv")
    for task, row in rows("config/smollm2-laptop-tasks.csv").items():
        for column in ("type", "options", "hr_to_lr"):
            assert row[column] == listed[task][column]


def test_the_guide_names_targets_that_are_there() -> None:
    guide = (ROOT / "docs/smollm2.md").read_text(encoding="utf-8")
    studies = read_configuration("config/smollm2.yaml").values.studies
    targets = set(re.findall(r"results/(?:smollm2|gemma3|smollm2-laptop)/([\w-]+)\.", guide))
    assert {"table2", "equal-tokens"} == targets <= set(studies)
    for file in re.findall(r"(?:config|envs)/[\w.-]+\.(?:yaml|txt)", guide):
        assert (ROOT / file).is_file()
