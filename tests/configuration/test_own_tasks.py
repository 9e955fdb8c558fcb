"""Tasks and partitions of one's own, beside those of a task list."""

from __future__ import annotations

import re

import pytest
import yaml
from helpers.configurations import ROOT, default_values, put

from mend.configuration.job_specs import specification
from mend.configuration.loading import Configuration, load_configuration, read_configuration
from mend.configuration.schema import OwnPartition, OwnTask
from mend.data.preflight import with_present_tasks
from mend.errors import UserError

ROWS = "text,kind\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(60))


@pytest.fixture
def values(tmp_path, monkeypatch) -> dict:
    """Return a configuration with an own task, `mine`, and a partition that tests it."""
    monkeypatch.chdir(ROOT)
    values = default_values(tmp_path)
    file = tmp_path / "rows.csv"
    file.write_text(ROWS)
    task = {"rows": str(file), "input": "{text}", "output": "{kind}"}
    values["benchmark"]["own_tasks"] = {"mine": task}
    values["benchmark"]["own_partitions"] = {"to_mine": {"test": ["mine"]}}
    study = {"llms": ["pocket-gpt2"], "partitions": ["to_mine"]}
    values["studies"]["own"] = {**study, "methods": ["zero-shot", "vanilla-icl"]}
    return values


def trained(values: dict, *train: str) -> Configuration:
    """Return the configuration with MEND in its study, and with meta-train tasks."""
    values = put(values, "studies/own/methods", ["mend"])
    return load_configuration(put(values, "benchmark/own_partitions/to_mine/train", [*train]))


def test_an_own_task_stands_beside_those_of_the_task_list(values) -> None:
    found = with_present_tasks(load_configuration(values))
    assert found.needs["to_mine"] == {"train": (), "test": ("mine",)}
    tasks = specification(found, "data/tasks")
    assert "mine" in tasks.test_tasks
    assert len(tasks.test_tasks) > 5
    own = specification(found, "data/own-tasks")
    assert (list(own.tasks), own.train_tasks, own.test_tasks) == (["mine"], [], ["mine"])
    table = specification(found, "own")
    assert table.test_tasks == {"to_mine": ["mine"]}
    assert table.task_types == {"mine": "classification"}


def test_a_partition_may_train_on_tasks_and_on_those_of_metaicls_partitions(values) -> None:
    found = trained(values, "class_to_class")
    listed = load_configuration(values).needs["class_to_class"]
    assert found.needs["to_mine"]["train"] == listed["train"]
    episodes = specification(found, "data/episodes/train/to_mine")
    assert episodes.tasks == list(listed["train"])
    more = put(values, "benchmark/own_partitions/to_mine/test", ["mine", listed["train"][0]])
    assert trained(more, "class_to_class").needs["to_mine"] == {
        "train": listed["train"][1:],
        "test": ("mine", listed["train"][0]),
    }


def test_own_tasks_may_be_all(values) -> None:
    values = put(values, "benchmark/tasks", {"source": "own"})
    values = put(values, "benchmark/task_list", None)
    values = put(values, "benchmark/corpus", {"source": "meta-train", "window": 100})
    values = put(values, "benchmark/partitions", ["to_mine"])
    more = {**values["benchmark"]["own_tasks"]["mine"], "seed": 1}
    values = put(values, "benchmark/own_tasks/more", more)
    values = put(values, "benchmark/own_partitions/to_mine/train", ["more"])
    values["studies"] = {"table2": {**values["studies"]["own"], "methods": ["mend"]}}
    found = with_present_tasks(load_configuration(values))
    assert found.needs == {"to_mine": {"train": ("more",), "test": ("mine",)}}
    assert found.benchmark_folder.endswith("data/own-tasks")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("own_tasks/mine/input", "text", r"own_tasks.mine.input: .* it names no column; write"),
        ("own_tasks/mine/input", "{text", r"own_tasks.mine.input: .* stands in braces"),
        ("own_tasks/mine/rows", "gone.csv", "own_tasks.mine.rows: there is no file gone.csv"),
        ("own_tasks/mine/rows", "config.yaml", "config.yaml ends in none of .csv, .jsonl"),
        ("own_tasks/mine/rows", {"test": "a.csv"}, "rows: train is missing"),
        ("own_tasks/mine/dataset", "a b", "dataset: there is no folder a b"),
        ("own_tasks/mine/revision", "main", "revision: it is for `dataset`; leave it out"),
        ("own_tasks/mine/labels", "option-number", "labels: option-number needs `options`"),
        ("own_tasks/mine/shares", {"dev": 0.5, "test": 0.5}, "dev and test are all rows"),
        (
            "own_tasks/mine",
            {
                "rows": "config.yaml",
                "input": "{a}",
                "output": "{b}",
                "type": "free-form",
                "options": ["a", "b"],
            },
            "type: free-form tasks have no options",
        ),
        (
            "own_tasks/animal-names",
            {"rows": "README.csv", "input": "{a}", "output": "{b}"},
            "there is no file README.csv",
        ),
        ("own_tasks/mine/metric", "f1", "mine.metric: it is for type: free-form; leave it out"),
        ("own_partitions/to_mine/test", ["min"], r"neither a task nor .* \(did you mean mine\?\)"),
        ("own_partitions/to_mine/train", ["mine"], "mine is in train and in test; choose one"),
        ("own_partitions/qa_to_qa", {"test": ["mine"]}, "it is one of MetaICL's; choose another"),
        ("partitions", ["to_mein"], r"partitions\[0\]: to_mein is not one of: .*to_mine"),
        ("tasks", {"source": "own"}, "task_list: leave it out with benchmark.tasks.source: own"),
        ("task_list", None, "task_list: missing"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(values, key, value, told) -> None:
    with pytest.raises(UserError, match=f"benchmark.*{told}"):
        load_configuration(put(values, f"benchmark/{key}", value))


FREE = {"type": "free-form", "metric": "rouge-l", "longest_answer": 8}


def test_jobs_are_told_of_free_form_tasks_where_there_are_some_and_no_others(values) -> None:
    path = "runs/pocket-gpt2/vanilla-icl/default/all/shots=16/predict"
    before = load_configuration(values)
    assert "free_form" not in specification(before, path).model_dump()
    assert "free_form" not in specification(before, "own").model_dump()
    mine = values["benchmark"]["own_tasks"]["mine"]
    values = put(values, "benchmark/own_tasks/mine", {**mine, **FREE})
    with pytest.raises(UserError, match=r"separators.demonstrations: ' ' does not tell where"):
        specification(load_configuration(values), path)
    between = {"input_output": " ", "demonstrations": "\n"}
    found = load_configuration(put(values, "protocol/separators", between))
    told = specification(found, path).model_dump(mode="json")
    assert told["predict"]["free_form"] == {"mine": {"metric": "rouge-l", "longest_answer": 8}}
    assert specification(found, "own").free_form == {"mine": "rouge-l"}
    stopping = specification(found, "runs/pocket-gpt2/mend/default/qa_to_qa/finetune")
    assert "mine" not in stopping.training.early_stopping.tasks


def test_dev_rows_of_free_form_tasks_alone_stop_no_training(values) -> None:
    mine = values["benchmark"]["own_tasks"]["mine"]
    found = trained(put(values, "benchmark/own_tasks/mine", {**mine, **FREE}), "class_to_class")
    with pytest.raises(
        UserError, match=r"early_stopping \(null: none\) by to_mine: all its meta-test tasks are"
    ):
        specification(found, "runs/pocket-gpt2/mend/default/to_mine/finetune")


def test_measurements_that_need_options_leave_free_form_tasks_out(values) -> None:
    mine = values["benchmark"]["own_tasks"]["mine"]
    values = put(values, "benchmark/own_tasks/mine", {**mine, **FREE})
    partition = {"train": ["class_to_class"], "test": ["mine", "qa_to_qa"]}
    values = put(values, "benchmark/own_partitions/to_mine", partition)
    values["protocol"]["separators"] = {"input_output": " ", "demonstrations": "\n"}
    values["studies"]["own"] |= {"methods": ["mend"], "pictures": ["divergence"]}
    values["efficiency"] = {"llms": ["pocket-gpt2"], "partitions": ["to_mine"]}
    values["attention"] = {"llms": ["pocket-gpt2"], "partition": "to_mine"}
    found = load_configuration(values)
    listed = list(found.needs["qa_to_qa"]["test"])
    efficiency = specification(found, "efficiency/pocket-gpt2").efficiency.tasks
    attention = specification(found, "attention/pocket-gpt2").attention.tasks
    [run] = specification(found, "divergence/own/pocket-gpt2").runs
    assert efficiency["to_mine"] == attention == run.predict.tasks == listed
    assert "free_form" not in run.predict.model_dump()


def test_a_name_of_the_task_list_is_taken(values) -> None:
    task = values["benchmark"]["own_tasks"]["mine"]
    with pytest.raises(UserError, match=r"own_tasks.animal-names: .*tasks.csv has a task of this"):
        load_configuration(put(values, "benchmark/own_tasks/animal-names", task))


def test_a_finetuned_run_needs_meta_train_tasks(values) -> None:
    with pytest.raises(UserError, match=r"own_partitions.to_mine.train: missing, and studies.own"):
        trained(values)


def test_rows_are_checked_before_any_job_and_again_when_their_file_changes(
    values, tmp_path, caplog
) -> None:
    file = tmp_path / "rows.csv"
    with_present_tasks(load_configuration(values))
    caplog.clear()
    with_present_tasks(load_configuration(values))
    assert "checking" not in caplog.text
    file.write_text(ROWS + "text 60,\n")
    with pytest.raises(UserError, match=r"rows.csv, line 62: output is empty"):
        with_present_tasks(load_configuration(values))
    with pytest.raises(UserError, match=r"rows.csv, line 62: output is empty"):
        with_present_tasks(load_configuration(values))
    file.write_text(ROWS)
    few = put(values, "benchmark/own_tasks/mine/shares", {"dev": 0.2, "test": 0.6})
    with pytest.raises(UserError, match="it has 12 train rows, and 16 are needed"):
        with_present_tasks(load_configuration(few))


BLOCKS = [
    yaml.safe_load(block)
    for block in re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs/own-data.md").read_text(), re.DOTALL | re.MULTILINE
    )
]


def test_the_five_lines_of_the_documentation_are_a_configuration(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    mine = BLOCKS[0] | {"results": str(tmp_path / "results")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    found = with_present_tasks(read_configuration("config.yaml", tmp_path / "mine.yaml"))
    assert found.needs["to_tickets"]["test"] == ("tickets",)


@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: list(next(iter(block.values())))[0])
def test_a_block_of_the_documentation_is_a_part_of_a_configuration(block) -> None:
    kinds = {"own_tasks": OwnTask, "own_partitions": OwnPartition}
    for key, parts in block.items():
        for part in parts.values():
            assert kinds[key](**part)


def test_the_example_has_the_partition_that_its_study_tests(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    found = with_present_tasks(read_configuration("config.yaml", "config/own-data.yaml"))
    assert set(found.values.studies["own"].partitions) <= set(found.needs)
