"""The task list and the partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mend.configuration import task_list as partitions
from mend.configuration.choices import PARTITIONS
from mend.configuration.display_names import partition_display_name
from mend.configuration.task_list import (
    METAICL_TASK_LIST,
    partition_needs,
    read_task_list,
)
from mend.errors import UserError

HEADER = "task,type,options," + ",".join(PARTITIONS)


def write_list(folder: Path, *lines: str) -> Path:
    path = folder / "tasks.csv"
    path.write_text("\n".join((HEADER, *lines)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def metaicl():
    return read_task_list(METAICL_TASK_LIST)


def test_metaicl_has_the_papers_numbers_of_tasks(metaicl):
    # MetaICL (Min et al., 2022), table 1: meta-train and meta-test tasks of each partition.
    assert len(metaicl) == 142
    counts = {
        p: (len(partitions.train_tasks(metaicl, p)), len(partitions.test_tasks(metaicl, p)))
        for p in PARTITIONS
    }
    assert counts == {
        "class_to_class": (43, 20),
        "non_class_to_class": (37, 20),
        "non_nli_to_nli": (55, 8),
        "non_qa_to_qa": (33, 22),
        "qa_to_qa": (37, 22),
        "hr_to_lr": (61, 26),
        "non_paraphrase_to_paraphrase": (59, 4),
    }
    assert all(partition_display_name(name) != name for name in PARTITIONS)


def test_a_task_is_read_whole(metaicl):
    task = metaicl["climate_fever"]
    assert task.type == "classification"
    assert task.options == ("Disputed", "Not enough info", "Refutes", "Supports")
    assert task.roles["class_to_class"] == {"test", "unseen"}
    assert task.roles["non_nli_to_nli"] == {"train"}
    assert task.roles["qa_to_qa"] == frozenset()


def test_sick_is_in_both_until_dropped(metaicl):
    partition = "non_nli_to_nli"
    assert "sick" in partitions.train_tasks(metaicl, partition)
    dropped = partitions.train_tasks(metaicl, partition, drop_tasks_in_both=True)
    assert "sick" not in dropped
    assert "sick" in partitions.test_tasks(metaicl, partition)
    assert len(dropped) == 54


def test_excluded_test_tasks_leave_only_their_partition(metaicl):
    excluded = {"class_to_class": ["dbpedia_14", "not-in-this-list"]}
    assert len(partitions.test_tasks(metaicl, "class_to_class", excluded)) == 19
    assert "dbpedia_14" not in partitions.test_tasks(metaicl, "class_to_class", excluded)
    assert "dbpedia_14" in partitions.test_tasks(metaicl, "non_class_to_class", excluded)


def test_an_excluded_task_in_both_stays_in_meta_train(metaicl):
    excluded = {"non_nli_to_nli": ["sick"]}
    assert "sick" in partitions.train_tasks(metaicl, "non_nli_to_nli", excluded, True)


def test_needs_keep_the_order_of_the_list(tmp_path):
    path = write_list(
        tmp_path,
        "b,classification,,train,,,,,,",
        "a,classification,,train,,,,,,",
        "c,multi-choice,,test,,,,,,",
    )
    needs = partition_needs(read_task_list(path), ["class_to_class"])
    assert needs == {"class_to_class": {"train": ("b", "a"), "test": ("c",)}}


def test_a_partition_without_tasks_is_an_error(tmp_path):
    tasks = read_task_list(write_list(tmp_path, "a,classification,,train,,,,,,"))
    with pytest.raises(UserError, match="class_to_class has no meta-test task"):
        partition_needs(tasks, ["class_to_class"])
    with pytest.raises(UserError, match="class2class is not one of class_to_class"):
        partition_needs(tasks, ["class2class"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b,classification,,train,,,,,", "more or fewer cells"),
        ("b,classification,,train,,,,,,,", "more or fewer cells"),
        ("a,classification,,train,,,,,,", "task a is listed twice"),
        (",classification,,train,,,,,,", "cannot be a task's name"),
        ("../b,classification,,train,,,,,,", "cannot be a task's name"),
        ("b,sorting,,train,,,,,,", "type is 'sorting', not one of classification"),
        ('b,classification,"[""x"", 1]",train,,,,,,', "JSON list of at least two strings"),
        ('b,classification,"[""x""]",train,,,,,,', "JSON list of at least two strings"),
        ("b,classification,x;y,train,,,,,,", "JSON list of at least two strings"),
        ("b,classification,,trian,,,,,,", "class_to_class is 'trian', not empty, train, test"),
        ("b,classification,,,unseen,,,,,", "non_class_to_class is 'unseen'"),
        ("b,free-form,,,,,,,,test", "non_paraphrase_to_paraphrase has the free-form task b"),
    ],
)
def test_errors_name_file_and_line(tmp_path, line, message):
    path = write_list(tmp_path, "a,classification,,train,,,,,,", line)
    with pytest.raises(UserError) as raised:
        read_task_list(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{path}, line 3: ")


def test_errors_of_the_whole_list(tmp_path):
    with pytest.raises(UserError, match="no such task list"):
        read_task_list(tmp_path / "absent.csv")
    path = tmp_path / "tasks.csv"
    path.write_text("task,type,options,class_to_class\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: missing columns: non_class_to_class, .*para"):
        read_task_list(path)
    with pytest.raises(UserError, match="lists no tasks"):
        read_task_list(write_list(tmp_path))
    path.write_bytes(HEADER.encode() + b"\n\xff\n")
    with pytest.raises(UserError, match="not a task list in UTF-8"):
        read_task_list(path)
