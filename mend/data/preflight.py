"""Whether the tasks that a configuration names are there, checked before any job.

The Snakefile imports this module while it is parsed: no pyarrow here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mend.atomic_io import write_json
from mend.configuration.checks import stopping_settings
from mend.configuration.task_list import Task
from mend.data.layout import READER_RULES, BenchmarkFile, benchmark_files, read_rows
from mend.data.package_files import package_file
from mend.data.tables import own_files
from mend.errors import UserError
from mend.progress import Progress, logger

if TYPE_CHECKING:
    from mend.configuration.loading import Configuration
    from mend.configuration.schema import ConfigurationValues
    from mend.configuration.specs.evaluation_episodes import DenseRetrieval
    from mend.configuration.specs.gguf_models import GGUFModel


def with_present_tasks(configuration: Configuration) -> Configuration:
    """Return a configuration whose tasks are there and have good rows.

    Tasks of a local folder whose files are not there are left out if benchmark.missing_tasks says
    so, and named in the log. Raises UserError as `check_benchmark`, and if nothing is left of
    table 2 or of what stops pretraining.
    """
    values, own = configuration.values, configuration.own_tasks
    check_own_tasks(configuration)
    listed = {
        partition: {
            role: tuple(name for name in names if name not in own) for role, names in roles.items()
        }
        for partition, roles in configuration.needs.items()
    }
    benchmark = values.benchmark
    if benchmark.tasks.source != "folder":
        return configuration
    folder = benchmark.tasks.folder
    missing = check_benchmark(
        folder,
        configuration.tasks,
        listed,
        benchmark.seeds,
        stamp=Path(values.results) / "data" / "checked.json",
        missing_tasks=benchmark.missing_tasks,
        pool=None if benchmark.pool_files else benchmark.pool,
    )
    listed = configuration.needs
    needs = remaining_needs(listed, missing)
    if missing:
        logger.warning("%s", describe_missing(folder, missing))
    if gone := [name for name in listed if name not in needs]:
        names = ", ".join(gone)
        logger.warning("partitions without any meta-train or meta-test task: %s", names)
    for key, partitions in _partitions_needed(values):
        if not set(partitions) & set(needs):
            raise UserError(
                f"{key}: {', '.join(partitions)} is not among the partitions that can run, "
                f"{', '.join(needs)}"
            )
    for study, content in values.studies.items():
        if not set(needs) & set(content.partitions):
            raise UserError(f"benchmark.missing_tasks: skip leaves no partition of studies.{study}")
    return replace(configuration, needs=needs)


def check_own_tasks(configuration: Configuration) -> None:
    """Check the rows of one's own tasks before any job, as far as they are on this machine.

    What was found right is remembered in data/checked-own-tasks.json, and read again when a file or
    the task's settings change. Raises UserError as `mend.data.own_tasks.read_own_task`.
    """
    if not configuration.own_tasks:
        return
    from mend.configuration.job_specs import own_tasks_specification
    from mend.data.own_tasks import read_own_task

    spec = own_tasks_specification(configuration)
    stamp = Path(configuration.results) / "data" / "checked-own-tasks.json"
    known = _remembered(stamp)
    found = {}
    for name, task in spec.tasks.items():
        files = own_files(task)
        settings = spec.model_dump(mode="json", exclude={"tasks"})
        marks = [[file, os.stat(file).st_size, os.stat(file).st_mtime_ns] for file in files]
        found[name] = [settings, task.model_dump(mode="json"), marks]
        if files and known.get(name) != found[name]:
            logger.info("checking the rows of own task %s", name)
            read_own_task(spec, name)
    if found != known:
        _remember(found, stamp)


def _remembered(stamp: Path) -> dict[str, Any]:
    """Return what a stamp says was found right: nothing if it cannot be read."""
    try:
        remembered = json.loads(stamp.read_text(encoding="utf-8"))
        return dict(remembered["files"]) if remembered["rules"] == READER_RULES else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _remember(found: Mapping[str, Any], stamp: Path) -> None:
    try:
        write_json({"rules": READER_RULES, "files": found}, stamp)
    except OSError:
        logger.warning("%s cannot be written, so the rows will be checked again", stamp)


def _partitions_needed(values: ConfigurationValues) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield (key, partitions) where one of these must be left."""
    for key, stage, stopping in stopping_settings(values):
        if stage == "pretrain":
            yield f"{key}.partition", [stopping.partition]
    if values.attention:
        yield "attention.partition", [values.attention.partition]
    if values.efficiency:
        yield "efficiency.partitions", values.efficiency.partitions


def check_int8_library() -> None:
    """Raise UserError if what loads an LLM in 8 bit is not here."""
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "llms: int8: bitsandbytes is not installed, and a run that is asked for loads its LLM "
            "in 8 bit; pip install -r envs/requirements-cuda.txt, which pins it, or set int8: false"
        )


def check_retrieval_library(dense: DenseRetrieval) -> None:
    """Raise UserError if what embeds texts for dense retrieval needs a library that is not here."""
    if dense.kind == "sentence-transformers" and find_spec("sentence_transformers") is None:
        raise UserError(
            "benchmark.dense_retrieval.kind: sentence-transformers is not installed, and a run "
            "that is asked for has selection: dense; pip install -r envs/requirements-cuda.txt, "
            "which pins it, or set kind: language-model"
        )


def check_gguf(models: Mapping[str, GGUFModel], name: str) -> None:
    """Raise UserError if a model's GGUF file, or what reads such files, is not here."""
    try:
        for file in models[name].files:
            package_file(file)
    except UserError as error:
        raise UserError(f"gguf_models.{name}.files: {error}") from None
    if find_spec("gguf") is None:
        raise UserError(
            f"gguf_models.{name}: the Python package gguf is not installed, which reads it; "
            "pip install 'mend-icl[gguf]'"
        )


def check_benchmark(
    folder: str | Path,
    tasks: Mapping[str, Task],
    needs: Mapping[str, Mapping[str, Sequence[str]]],
    seeds: Sequence[int],
    stamp: str | Path,
    missing_tasks: str = "error",
    pool: int | None = None,
) -> dict[str, dict[str, dict[str, str]]]:
    """Check a local folder before any job: that the files are there, and every row of them.

    Args:
        folder: the folder that holds `data/TASK/...`.
        tasks: the task list; a task's type says whether its meta-train rows may lack options.
        needs: {partition: {"train": names, "test": names}}, from `partitions.partition_needs`.
        seeds: seeds of the meta-test files.
        stamp: JSON file that remembers which files (path, size, time of change) were found right,
            so that they are not read again.
        missing_tasks: "error" or "skip".
        pool: rows of the larger train files of meta-test tasks; None if there are none.

    Returns:
        {partition: {"train": {task: what is missing}, "test": {...}}} of the partitions that miss
        something: empty unless `missing_tasks` is "skip". See `remaining_needs`.

    Raises:
        UserError: listing all missing tasks by partition (with "error"), or naming the file and
            line of the first bad row.
    """
    folder = Path(folder)
    if not (folder / "data").is_dir():
        raise UserError(
            f"{folder}: it has no folder `data`; MetaICL's layout is "
            "data/TASK/TASK_16_SEED_SPLIT.jsonl (benchmark.tasks.folder)"
        )
    missing: dict[str, dict[str, dict[str, str]]] = {}
    present: dict[str, BenchmarkFile] = {}
    for partition, roles in needs.items():
        for role, names in roles.items():
            for name in names:
                chosen = ([name], []) if role == "train" else ([], [name])
                files = benchmark_files(*chosen, seeds, pool)
                lacking = [file for file in files if not (folder / file.name).is_file()]
                if not lacking:
                    present.update((file.name, file) for file in files)
                    continue
                what = "no folder"
                if (folder / "data" / name).is_dir():
                    what = f"no {Path(lacking[0].name).name}"
                    what += f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
                missing.setdefault(partition, {}).setdefault(role, {})[name] = what
    if missing and missing_tasks != "skip":
        raise UserError(describe_missing(folder, missing))
    _check_rows(folder, tasks, list(present.values()), Path(stamp))
    return missing


def _check_rows(
    folder: Path, tasks: Mapping[str, Task], files: Sequence[BenchmarkFile], stamp: Path
) -> None:
    known = _remembered(stamp)
    unread, size = [], 0
    for file in files:
        path = (folder / file.name).absolute()
        status = path.stat()
        options_required = file.split != "meta_train" or tasks[file.task].type != "free-form"
        mark = [status.st_size, status.st_mtime_ns, options_required]
        if known.get(str(path)) != mark:
            unread.append((path, mark))
            size += status.st_size
    if not unread:
        return
    logger.info("checking %d files (%.0f MB) of %s", len(unread), size / 1e6, folder)
    try:
        progress = Progress("checking", len(unread))
        for count, (path, mark) in enumerate(unread, start=1):
            progress.update(count, path.name)
            for _ in read_rows(path, options_required=mark[2]):
                pass
            known[str(path)] = mark
    finally:
        _remember(known, stamp)


def describe_missing(
    folder: str | Path, missing: Mapping[str, Mapping[str, Mapping[str, str]]]
) -> str:
    """The missing tasks of `check_benchmark` as lines for a person, by partition."""
    lines = [
        f"{folder}: files of tasks are missing (benchmark.missing_tasks: skip leaves them out)"
    ]
    for partition, roles in missing.items():
        for role, names in roles.items():
            what = ", ".join(f"{name} ({problem})" for name, problem in names.items())
            lines.append(f"  {partition}, meta-{role}: {what}")
    return "\n".join(lines)


def remaining_needs(
    needs: Mapping[str, Mapping[str, Sequence[str]]],
    missing: Mapping[str, Mapping[str, Mapping[str, str]]],
) -> dict[str, dict[str, tuple[str, ...]]]:
    """`needs` without the missing tasks; a partition left without meta-train or meta-test goes."""
    remaining = {}
    for partition, roles in needs.items():
        gone = missing.get(partition, {})
        left = {
            role: tuple(name for name in names if name not in gone.get(role, {}))
            for role, names in roles.items()
        }
        if all(left[role] or not names for role, names in roles.items()):
            remaining[partition] = left
    return remaining
