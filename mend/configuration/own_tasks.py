"""Tasks and partitions of one's own, beside those of a task list."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from mend.configuration.choices import PARTITIONS
from mend.configuration.schema import ConfigurationValues, OwnTask
from mend.configuration.settings import hub_name_problem
from mend.configuration.specs.free_form import FreeForm
from mend.configuration.specs.own_tasks import OPTION_NUMBER
from mend.configuration.task_list import Task, test_tasks, train_tasks
from mend.configuration.words import closest, listed
from mend.errors import UserError

ENDINGS = (".csv", ".jsonl", ".parquet")


def own_task_problems(values: ConfigurationValues) -> Iterator[str]:
    """Yield what is wrong with own tasks and partitions, as far as no rows are read."""
    benchmark = values.benchmark
    known = [*PARTITIONS, *benchmark.own_partitions]
    for number, name in enumerate(benchmark.partitions):
        if name not in known:
            yield (
                f"benchmark.partitions[{number}]: {name} is not one of: {listed(known)}"
                f"{closest(name, known)}"
            )
    for name in benchmark.own_partitions:
        if name in PARTITIONS:
            yield f"benchmark.own_partitions.{name}: it is one of MetaICL's; choose another name"
    for name, task in benchmark.own_tasks.items():
        key = f"benchmark.own_tasks.{name}"
        if name in known:
            yield f"{key}: a partition has this name; choose another"
        yield from _of_task(key, task)
    if benchmark.tasks.source == "own":
        for key in ("own_tasks", "own_partitions"):
            if not getattr(benchmark, key):
                yield f"benchmark.{key}: missing, and benchmark.tasks.source: own needs it"
        if benchmark.task_list:
            yield "benchmark.task_list: leave it out with benchmark.tasks.source: own"
    elif benchmark.task_list is None:
        yield "benchmark.task_list: missing: CSV of tasks, and of their part in each partition"


def _of_task(key: str, task: OwnTask) -> Iterator[str]:
    sources = task.sources
    if "train" not in sources:
        yield f"{key}.rows: train is missing: demonstrations are train rows"
    if task.type == "free-form" and (task.options or task.labels == OPTION_NUMBER):
        yield f"{key}.type: free-form tasks have no options; leave one of them out"
    for name in FreeForm.model_fields:
        if name in task.model_fields_set and task.type != "free-form":
            yield f"{key}.{name}: it is for type: free-form; leave it out"
    if task.labels == OPTION_NUMBER and not task.options:
        yield f"{key}.labels: {OPTION_NUMBER} needs `options`, whose numbers outputs are"
    if task.shares.dev + task.shares.test >= 1:
        yield f"{key}.shares: dev and test are all rows together; leave some for train"
    if task.dataset:
        if not os.path.isdir(task.dataset) and hub_name_problem(task.dataset):
            yield f"{key}.dataset: there is no folder {task.dataset}"
        return
    for name in ("dataset_config", "revision"):
        if getattr(task, name):
            yield f"{key}.{name}: it is for `dataset`; leave it out"
    for side, file in sources.items():
        where = f"{key}.rows" if isinstance(task.rows, str) else f"{key}.rows.{side}"
        if not file.endswith(ENDINGS):
            yield f"{where}: {file} ends in none of {', '.join(ENDINGS)}"
        elif not os.path.isfile(file):
            yield f"{where}: there is no file {file}"


def with_own_tasks(values: ConfigurationValues, tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Return the tasks of a task list and one's own; raises UserError if two have one name."""
    found = dict(tasks)
    for name, task in values.benchmark.own_tasks.items():
        if name in tasks:
            raise UserError(
                f"benchmark.own_tasks.{name}: {values.benchmark.task_list} has a task of this "
                "name; choose another"
            )
        found[name] = Task(name, task.task_type, (), dict.fromkeys(PARTITIONS, frozenset()))
    return found


def own_needs(
    values: ConfigurationValues, tasks: Mapping[str, Task]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return what one's own partitions read, as `partition_needs` does for the task list's.

    A name is that of a task or of a partition, whose tasks of the same side it stands for; of
    meta-train tasks that are named like this, those that the own partition tests are left out.
    Raises UserError for a name that is neither, and for a task that is named on both sides.
    """
    excluded = values.protocol.excluded_test_tasks
    needs = {}
    for partition, own in values.benchmark.own_partitions.items():
        key = f"benchmark.own_partitions.{partition}"
        test = _named(
            f"{key}.test", own.test, tasks, lambda name: test_tasks(tasks, name, excluded)
        )
        train = _named(f"{key}.train", own.train, tasks, lambda name: train_tasks(tasks, name))
        if both := sorted(set(own.train) & set(own.test) & set(tasks)):
            raise UserError(f"{key}: {listed(both)} is in train and in test; choose one")
        needs[partition] = {
            "train": tuple(name for name in train if name not in test),
            "test": tuple(test),
        }
    return needs


def _named(
    key: str,
    names: Sequence[str],
    tasks: Mapping[str, Task],
    of_partition: Callable[[str], Sequence[str]],
) -> list[str]:
    found: list[str] = []
    for name in names:
        if name in tasks:
            found.append(name)
        elif name in PARTITIONS and (side := of_partition(name)):
            found += side
        elif name in PARTITIONS:
            raise UserError(f"{key}: the task list has no such tasks of {name}")
        else:
            known = [*tasks, *PARTITIONS]
            raise UserError(
                f"{key}: {name} is neither a task nor a partition of MetaICL{closest(name, known)}"
            )
    return list(dict.fromkeys(found))
