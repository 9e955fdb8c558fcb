"""The real rows of MetaICL, where a copy of them lies beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from mend.configuration.choices import PARTITIONS
from mend.configuration.job_specs import specification
from mend.configuration.loading import load_configuration, read_values
from mend.configuration.specs.tasks import TasksSpec
from mend.configuration.task_list import METAICL_TASK_LIST, partition_needs, read_task_list
from mend.data.corpus import read_documents
from mend.data.layout import benchmark_files, read_rows
from mend.data.meta_train_text import write_meta_train_text
from mend.data.preflight import check_benchmark, remaining_needs, with_present_tasks
from mend.data.tasks import import_tasks, load_rows
from mend.errors import UserError

ROOT = Path(__file__).parents[2]
METAICL = ROOT.parent / "shared" / "metaicl"

pytestmark = pytest.mark.skipif(not METAICL.is_dir(), reason=f"MetaICL's rows are not at {METAICL}")


def test_real_rows_of_metaicl(tmp_path):
    tasks = read_task_list(METAICL_TASK_LIST)
    seeds = [13, 21, 42, 87, 100]
    there = {path.name for path in (METAICL / "data").iterdir()}
    assert len(there) == 86
    assert there <= set(tasks)
    pools = [
        name for name in tasks if (METAICL / f"data/{name}/{name}_16384_100_train.jsonl").exists()
    ]
    scored = [name for name in tasks if name in there and tasks[name].type != "free-form"]
    # Every file of every task that can be scored, and every pool.
    needs = {"class_to_class": {"train": pools, "test": scored}}
    assert check_benchmark(METAICL, tasks, needs, seeds, tmp_path / "stamp.json") == {}
    # The small files of the free-form tasks are no meta-test files, but they are rows too.
    rest = benchmark_files([], sorted(there - set(scored)), seeds)
    rows = sum(1 for file in rest for _ in read_rows(METAICL / file.name, options_required=False))
    assert rows > 10_000

    spec = TasksSpec(
        train_tasks=["glue-mrpc", "kilt_nq"], test_tasks=["glue-mrpc", "codah"], seeds=seeds
    )
    import_tasks(spec, METAICL, tmp_path / "tasks")
    mrpc, codah = load_rows(tmp_path / "tasks", "glue-mrpc"), load_rows(tmp_path / "tasks", "codah")
    assert 100 < len(mrpc.rows("meta_train")) <= 1000
    assert {option for row in mrpc.rows("meta_train") for option in row.options} == {
        "equivalent",
        "not_equivalent",
    }
    for seed in seeds:
        assert len(codah.rows("train", seed)) == 16
        assert codah.rows("test", seed) == codah.rows("test", 13)
        assert all(row.output in row.options for row in codah.rows("test", seed))
    assert not any(
        row.options for row in load_rows(tmp_path / "tasks", "kilt_nq").rows("meta_train")
    )


def test_real_partitions_say_what_is_missing(tmp_path):
    tasks = read_task_list(METAICL_TASK_LIST)
    needs = partition_needs(tasks, PARTITIONS)
    with pytest.raises(UserError, match=r"class_to_class, meta-train: .*imdb \(no folder\)"):
        check_benchmark(METAICL, tasks, needs, [13], tmp_path / "stamp.json")
    missing = check_benchmark(METAICL, tasks, needs, [13], tmp_path / "stamp.json", "skip")
    left = remaining_needs(needs, missing)
    assert set(left) == set(PARTITIONS)
    assert len(left["class_to_class"]["test"]) == 11
    assert "dbpedia_14" in missing["class_to_class"]["test"]


def test_no_real_meta_test_row_is_text_to_pretrain_on(tmp_path):
    values = read_values(ROOT / "config/metaicl-local.yaml")
    values["benchmark"] |= {
        "tasks": {"source": "folder", "folder": str(METAICL)},
        "task_list": str(METAICL_TASK_LIST),
        "corpus": {"source": "meta-train", "window": 64},
        "partitions": ["class_to_class", "hr_to_lr"],
    }
    values["results"] = str(tmp_path / "results")
    values["local_models"] = None
    values["llms"]["local-gpt2"] |= {"path": "a/b", "distiller": {"path": "a/c"}}
    values["llms"]["local-gpt2"]["local_files_only"] = False
    values["studies"]["table2"]["partitions"] = ["class_to_class", "hr_to_lr"]
    found = with_present_tasks(load_configuration(values))
    tasks, folder = tmp_path / "tasks", Path(found.corpus_files[0]).parent
    import_tasks(specification(found, "data/tasks"), METAICL, tasks)
    spec = specification(found, "data/corpus")
    write_meta_train_text(spec, tasks, folder)
    texts = set(read_documents(found.corpus_files))
    assert len(spec.train_tasks) == 42
    assert len(texts) > 30_000
    for name, task in read_task_list(METAICL_TASK_LIST).items():
        if any("test" in task.roles[one] for one in values["benchmark"]["partitions"]):
            for path in (METAICL / "data" / name).glob("*.jsonl"):
                of_task = {row.input for row in read_rows(path, options_required=False)}
                assert "_16384_" in path.name or not texts & of_task
