"""Lists of tasks, and the seven meta-train/meta-test partitions of them.

The partitions are those of MetaICL (Min et al., 2022, table 1), which the MEND paper's table 2
uses; `metaicl_tasks.csv` beside this file holds the 142 tasks. Imported while the Snakefile is
parsed, so only the standard library is used.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mend.configuration.choices import PARTITIONS, TASK_TYPES
from mend.configuration.files import read_small_text
from mend.configuration.settings import path_problem
from mend.errors import UserError

METAICL_TASK_LIST = Path(__file__).parents[1] / "data/metaicl_tasks.csv"
"""The 142 tasks of MetaICL with their types, options and partitions."""


@dataclass(frozen=True)
class Task:
    """One task of a task list.

    `options` holds the label words of a classification task where they are the same in every
    row, else it is empty. `roles` maps each partition to a subset of {"train", "test", "unseen"};
    "unseen" marks a meta-test task of a domain that no meta-train task has.
    """

    name: str
    type: str
    options: tuple[str, ...]
    roles: Mapping[str, frozenset[str]]


def read_task_list(path: str | Path) -> dict[str, Task]:
    """Read a task list: a CSV with columns task, type, options and the seven partitions.

    Cells of a partition hold "", "train", "test", "test+unseen" or "train+test"; options is a JSON
    list or empty. Returns the tasks by name, in file order.

    Raises:
        UserError: naming the file and line, for whatever the list must not hold.
    """
    path = Path(path)
    columns = ("task", "type", "options", *PARTITIONS)
    tasks: dict[str, Task] = {}
    try:
        with io.StringIO(read_small_text(path, "task list"), newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}, line 1: missing columns: {', '.join(missing)}")
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                if None in cells or None in cells.values():
                    raise UserError(f"{where}: it has more or fewer cells than line 1")
                task = _read_task(cells, where)
                if task.name in tasks:
                    raise UserError(f"{where}: task {task.name} is listed twice")
                tasks[task.name] = task
    except csv.Error as error:
        raise UserError(f"{path}: not a task list, which is a CSV file ({error})") from None
    if not tasks:
        raise UserError(f"{path}: it lists no tasks")
    return tasks


def _read_task(cells: Mapping[str, str], where: str) -> Task:
    name, type_ = cells["task"].strip(), cells["type"].strip()
    if not name or "/" in name or name.startswith(".") or len(name) > 200 or path_problem(name):
        raise UserError(f"{where}: {name[:80]!r} cannot be a task's name (it also names its files)")
    if type_ not in TASK_TYPES:
        raise UserError(f"{where}: type is {type_!r}, not one of {', '.join(TASK_TYPES)}")
    options: Any = []
    if cells["options"].strip():
        try:
            options = json.loads(cells["options"])
        except (ValueError, RecursionError):
            options = None
        if (
            not isinstance(options, list)
            or not all(isinstance(option, str) for option in options)
            or len(options) < 2
        ):
            raise UserError(
                f"{where}: options must be empty or a JSON list of at least two strings, "
                f"not {cells['options']!r}"
            )
    roles = {}
    for partition in PARTITIONS:
        role = frozenset(cells[partition].strip().split("+")) - {""}
        if not role <= {"train", "test", "unseen"} or ("unseen" in role and "test" not in role):
            raise UserError(
                f"{where}: {partition} is {cells[partition]!r}, not empty, train, test, "
                "test+unseen or train+test"
            )
        if "test" in role and type_ == "free-form":
            raise UserError(
                f"{where}: {partition} has the free-form task {name} in meta-test, but only "
                "benchmark.own_tasks may be scored by what is generated"
            )
        roles[partition] = role
    return Task(name, type_, tuple(options), roles)


def train_tasks(
    tasks: Mapping[str, Task],
    partition: str,
    excluded_test_tasks: Mapping[str, Sequence[str]] | None = None,
    drop_tasks_in_both: bool = False,
) -> tuple[str, ...]:
    """Return the names of a partition's meta-train tasks, in the order of the task list.

    drop_tasks_in_both: leave out a task that the partition also has in its meta-test (in MetaICL's
    list, sick in non_nli_to_nli); excluded_test_tasks: as of `test_tasks`.
    """
    in_both = set()
    if drop_tasks_in_both:
        in_both = set(test_tasks(tasks, partition, excluded_test_tasks))
    return tuple(name for name in _with_role(tasks, partition, "train") if name not in in_both)


def test_tasks(
    tasks: Mapping[str, Task],
    partition: str,
    excluded_test_tasks: Mapping[str, Sequence[str]] | None = None,  # noqa: PT028 (no test)
) -> tuple[str, ...]:
    """Return the names of a partition's meta-test tasks, in the order of the task list.

    excluded_test_tasks: {partition: tasks to leave out}; names that a task list lacks are ignored,
    as a preset serves every task list.
    """
    excluded = (excluded_test_tasks or {}).get(partition, ())
    return tuple(name for name in _with_role(tasks, partition, "test") if name not in excluded)


def partition_needs(
    tasks: Mapping[str, Task],
    partitions: Sequence[str],
    excluded_test_tasks: Mapping[str, Sequence[str]] | None = None,
    drop_tasks_in_both: bool = False,
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return what each partition reads: {partition: {"train": task names, "test": task names}}.

    Raises:
        UserError: if the task list gives a partition no meta-train or no meta-test task.
    """
    needs = {}
    for partition in partitions:
        needs[partition] = {
            "train": train_tasks(tasks, partition, excluded_test_tasks, drop_tasks_in_both),
            "test": test_tasks(tasks, partition, excluded_test_tasks),
        }
        for role, names in needs[partition].items():
            if not names:
                raise UserError(
                    f"benchmark.partitions: {partition} has no meta-{role} task in the task list"
                )
    return needs


def _with_role(tasks: Mapping[str, Task], partition: str, role: str) -> tuple[str, ...]:
    if partition not in PARTITIONS:
        raise UserError(f"benchmark.partitions: {partition} is not one of {', '.join(PARTITIONS)}")
    return tuple(name for name, task in tasks.items() if role in task.roles[partition])
