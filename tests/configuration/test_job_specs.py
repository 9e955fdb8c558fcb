"""Specifications: what each job is told, and which jobs a change of the configuration reaches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.configurations import ROOT, default_values, put

from mend.configuration.choices import PARTITIONS
from mend.configuration.job_specs import specification, specification_json
from mend.configuration.loading import load_configuration
from mend.configuration.runs import method_setup, study_runs
from mend.configuration.task_list import read_task_list
from mend.errors import UserError


@pytest.fixture
def values(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(ROOT)
    return default_values(tmp_path)


def specs(values: dict) -> dict[str, str]:
    """Return the specification of every job of table 2."""
    configuration = load_configuration(values)
    paths = ["data/benchmark", "data/tasks", "data/chunks/pocket-gpt2", "table2"]
    paths += [f"data/episodes/shots={values['benchmark']['shots']}/{s}" for s in ("dev", "test")]
    paths += [f"data/episodes/train/{p}" for p in values["benchmark"]["partitions"]]
    for run in study_runs(configuration, "table2"):
        folder = f"runs/{run.llm}/{run.method}/{run.variant}"
        paths.append(f"{run.folder}/predict")
        stages = method_setup(configuration.values, run.llm, run.method, run.variant).stages
        if "pretrain" in stages:
            paths.append(f"{folder}/pretrain")
        if "finetune" in stages:
            paths.append(f"{folder}/{run.partition}/finetune")
    return {path: specification_json(configuration, path) for path in paths}


MEND = "runs/pocket-gpt2/mend/default"
HYPER = "runs/pocket-gpt2/hypertuning/default"
PROMPT = "runs/pocket-gpt2/prompt-tuning/default"
JOBS = ("finetune", "shots=16/predict")


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("methods/mend/finetune/losses/distill", 0.5, {f"{MEND}/{p}/finetune" for p in PARTITIONS}),
        ("benchmark/test_rows", 7, {"data/episodes/shots=16/test"}),
        ("benchmark/corpus/window", 64, {"data/chunks/pocket-gpt2"}),
        ("training/pretrain/steps", 3, {f"{MEND}/pretrain", f"{HYPER}/pretrain"}),
        ("protocol/task_mean", "authors", {"table2"}),
        (
            "protocol/metrics",
            "paper",
            {"table2", *(f"{m}/{p}/finetune" for m in (MEND, HYPER, PROMPT) for p in PARTITIONS)},
        ),
        (
            "protocol/task_sampling",
            "proportional",
            {f"data/episodes/train/{p}" for p in PARTITIONS},
        ),
        (
            "protocol/projection",
            "linear",
            {f"{m}/pretrain" for m in (MEND, HYPER)}
            | {f"{m}/{p}/{j}" for m in (MEND, HYPER) for p in PARTITIONS for j in JOBS},
        ),
        ("studies/table2/partitions", ["qa_to_qa"], {"table2"}),
        ("llms/pocket-gpt2/paper_llm", "gpt2-xl", {"table2"}),
        (
            "methods/prompt-tuning/length",
            3,
            {f"{PROMPT}/{p}/{job}" for p in PARTITIONS for job in JOBS},
        ),
    ],
)
def test_a_change_reaches_only_the_jobs_that_depend_on_it(values, key, value, changed) -> None:
    before, after = specs(values), specs(put(values, key, value))
    assert {path for path in before if path in after and before[path] != after[path]} == changed


def test_the_table_tells_the_command_that_made_it(values) -> None:
    for files, expected in [(["config.yaml"], ""), (["a.yaml", "b"], " --configfile a.yaml b")]:
        configuration = replace(load_configuration(values), files=files)
        command = specification(configuration, "table2").command
        assert command == f"snakemake --cores all {values['results']}/table2.csv{expected}"


def test_methods_are_told_of_the_distiller_only_if_they_use_it(values) -> None:
    configuration = load_configuration(values)
    spec = specification(configuration, f"{MEND}/qa_to_qa/shots=16/predict")
    assert spec.distiller.path == values["llms"]["pocket-gpt2"]["distiller"]["path"]
    assert spec.method.settings == {"length": 16}
    for name in ("zero-shot", "vanilla-icl"):
        path = f"runs/pocket-gpt2/{name}/default/all/shots=16/predict"
        spec = specification(configuration, path)
        assert (spec.method.name, spec.method.settings, spec.distiller) == (name, {}, None)


def test_untrained_methods_predict_all_partitions_tasks_once(values) -> None:
    configuration = load_configuration(values)
    runs = study_runs(configuration, "table2")
    assert [run.partition for run in runs if run.method == "zero-shot"] == ["all"]
    assert [run.partition for run in runs if run.method == "mend"] == list(PARTITIONS)
    path = "runs/pocket-gpt2/zero-shot/default/all/shots=16/predict"
    tasks = specification(configuration, path).predict.tasks
    expected = {name for roles in configuration.needs.values() for name in roles["test"]}
    assert set(tasks) == expected
    assert len(tasks) == len(expected)


def test_early_stopping_is_told_the_tasks_and_types_of_its_partition(values) -> None:
    values["training"]["pretrain"]["early_stopping"] = {
        **values["training"]["finetune"]["early_stopping"],
        "partition": "qa_to_qa",
    }
    configuration = load_configuration(values)
    for path, partition in [
        (f"{MEND}/pretrain", "qa_to_qa"),
        (f"{MEND}/class_to_class/finetune", "class_to_class"),
    ]:
        stopping = specification(configuration, path).training.early_stopping
        assert stopping.tasks == {
            name: configuration.tasks[name].type for name in configuration.needs[partition]["test"]
        }


def test_a_method_overrides_the_training_of_its_own_stage(values) -> None:
    values = put(values, "methods/mend/finetune/steps", 999)
    configuration = load_configuration(values)
    training = specification(configuration, f"{MEND}/qa_to_qa/finetune").training
    assert (training.steps, training.stage, training.partition) == (999, "finetune", "qa_to_qa")
    other = specification(configuration, f"{HYPER}/qa_to_qa/finetune").training
    assert other.steps == values["training"]["finetune"]["steps"]
    episodes = specification(configuration, "data/episodes/train/qa_to_qa").episodes
    assert episodes == 999 * values["training"]["finetune"]["batch_size"]


def test_a_path_of_no_job_is_refused(values) -> None:
    with pytest.raises(UserError, match="no job"):
        specification(load_configuration(values), "data/nothing")


def test_a_task_of_another_type_reaches_what_its_type_decides(values, tmp_path) -> None:
    """No job reads the list of tasks: what it says of them stands in specifications."""
    tasks = read_task_list(values["benchmark"]["task_list"])
    name = next(name for name, task in tasks.items() if task.roles["class_to_class"] == {"test"})
    text = Path(values["benchmark"]["task_list"]).read_text()
    assert f"\n{name},classification," in text
    other = tmp_path / "tasks.csv"
    other.write_text(text.replace(f"\n{name},classification,", f"\n{name},multi-choice,"))
    before, after = specs(values), specs(put(values, "benchmark/task_list", str(other)))
    partitions = [partition for partition in PARTITIONS if "test" in tasks[name].roles[partition]]
    trained = {f"{m}/{p}/finetune" for m in (MEND, HYPER, PROMPT) for p in partitions}
    assert {path for path in before if before[path] != after[path]} == {"table2", *trained}


def test_training_episodes_may_have_more_demonstrations_than_tests(values) -> None:
    def shots(configured: dict) -> list[int]:
        configuration = load_configuration(configured)
        return [
            specification(configuration, path).shots
            for path in ("data/episodes/train/class_to_class", "data/episodes/shots=16/test")
        ]

    assert shots(values) == [16, 16]
    assert shots(put(values, "training/finetune/shots", 64)) == [64, 16]
    with pytest.raises(UserError, match="an episode would have 101 rows"):
        shots(put(values, "training/finetune/shots", 97))
