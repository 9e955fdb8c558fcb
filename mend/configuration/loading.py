"""The configuration: read, filled in, checked in every way that needs no data, and typed."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mend.configuration.checks import check_values
from mend.configuration.files import read_yaml
from mend.configuration.messages import located, readable, validated
from mend.configuration.own_tasks import own_needs, with_own_tasks
from mend.configuration.plain import unusable_values
from mend.configuration.presets import with_preset
from mend.configuration.runs import study_runs
from mend.configuration.schema import ConfigurationValues, configuration_type
from mend.configuration.task_list import Task, partition_needs, read_task_list
from mend.errors import UserError


@dataclass(frozen=True)
class Configuration:
    """A configuration that passed all checks.

    values: every key, those left out filled in from the preset.
    tasks: the task list.
    needs: {partition: {"train": names, "test": names}} of the partitions that can run.
    listed_test_tasks: {partition: names}, also of tasks whose files are not there.
    files: the configuration files, in the order in which they were merged.
    """

    values: ConfigurationValues
    tasks: Mapping[str, Task]
    needs: Mapping[str, Mapping[str, Sequence[str]]]
    listed_test_tasks: Mapping[str, Sequence[str]]
    files: Sequence[str] = ()

    @property
    def results(self) -> str:
        """The folder for everything that is made, without a slash at the end."""
        return self.values.results.rstrip("/")

    @property
    def benchmark_folder(self) -> str:
        """The folder that holds data/TASK: the user's own, or the one that a job fills."""
        tasks = self.values.benchmark.tasks
        if tasks.source == "own":
            return f"{self.results}/data/own-tasks"
        return tasks.folder if tasks.source == "folder" else f"{self.results}/data/benchmark"

    @property
    def own_tasks(self) -> list[str]:
        """The tasks of one's own that a partition has."""
        own = self.values.benchmark.own_tasks
        used = {name for roles in self.needs.values() for names in roles.values() for name in names}
        return [name for name in own if name in used]

    @property
    def text_tasks(self) -> list[str]:
        """Meta-train tasks whose inputs can be the corpus: no partition has them in meta-test."""
        train = {name for roles in self.needs.values() for name in roles["train"]}
        test = {name for names in self.listed_test_tasks.values() for name in names}
        return [name for name in self.tasks if name in train - test]

    @property
    def corpus_files(self) -> list[str]:
        """The files of the corpus, which a job may yet have to make."""
        corpus = self.values.benchmark.corpus
        if corpus.source == "pocket":
            return [f"{self.benchmark_folder}/corpus/part-00000.jsonl"]
        if corpus.source == "hub":
            return [f"{self.results}/data/corpus/{name}" for name in corpus.files]
        if corpus.source == "meta-train":
            return [f"{self.results}/data/corpus/meta-train.jsonl"]
        folder = glob.escape(corpus.folder or self.benchmark_folder)
        patterns = [f"{folder}/{pattern}" for pattern in corpus.files]
        return [file for pattern in patterns for file in sorted(glob.glob(pattern))]

    @property
    def pool_files(self) -> list[str]:
        """The files that hold larger pools, which a job may yet have to fetch, as patterns."""
        pool = self.values.benchmark.pool_files
        if pool is None:
            return []
        folder = pool.folder if pool.source == "folder" else f"{self.results}/data/pool-files"
        return [f"{glob.escape(folder)}/{name}" for name in pool.files]


def load_configuration(
    values: Mapping[str, Any], files: Iterable[str | Path] = ()
) -> Configuration:
    """Type, complete and check a configuration; rows of tasks are not read.

    values: the merged configuration; files: where it came from, for messages.
    Raises UserError listing whatever is wrong, each with its file and key.
    """
    files = [str(file) for file in files]
    try:
        for file in filter(os.path.isfile, files):
            read_yaml(file)  # Snakemake, which read it, takes the last of two equal keys
        if unusable := located(unusable_values(values), values, files):
            raise UserError("\n".join(unusable))
        typed = validated(configuration_type(), with_preset(values), files)
        try:
            return _fitting(typed, files)
        except UserError as error:
            where = f"{', '.join(files)}: " if files else ""
            raise UserError(
                "\n".join(f"{where}{line}" for line in str(error).splitlines())
            ) from None
    except UserError as error:
        raise UserError(readable(str(error).splitlines())) from None


def _fitting(values: ConfigurationValues, files: Sequence[str]) -> Configuration:
    """Return a configuration whose parts fit each other and the files that they name."""
    check_values(values)
    benchmark = values.benchmark
    listed = read_task_list(benchmark.task_list) if benchmark.task_list else {}
    tasks = with_own_tasks(values, listed)
    needs = partition_needs(
        tasks,
        [name for name in benchmark.partitions if name not in benchmark.own_partitions],
        values.protocol.excluded_test_tasks,
        values.protocol.drop_tasks_in_both,
    )
    needs |= own_needs(values, tasks)
    test_tasks = {partition: roles["test"] for partition, roles in needs.items()}
    configuration = Configuration(values, tasks, needs, test_tasks, files)
    check_data_files(configuration)
    _check_meta_train(configuration)
    return configuration


def _check_meta_train(configuration: Configuration) -> None:
    """Raise UserError for a run that is finetuned on a partition without meta-train tasks."""
    for study in configuration.values.studies:
        for run in study_runs(configuration, study):
            if not configuration.needs.get(run.partition, {"train": True})["train"]:
                raise UserError(
                    f"benchmark.own_partitions.{run.partition}.train: missing, and studies.{study} "
                    f"finetunes {run.method} on it; name tasks, or one of MetaICL's partitions"
                )


def check_data_files(configuration: Configuration) -> None:
    """Raise UserError for files of the corpus, or of larger pools, that are not there."""
    benchmark = configuration.values.benchmark
    found = {}
    if benchmark.corpus.source == "meta-train" and not configuration.text_tasks:
        raise UserError(
            "benchmark.corpus.source: every meta-train task is in the meta-test of a partition, so "
            "that none is left to give text; choose another source, or fewer benchmark.partitions"
        )
    if benchmark.corpus.source == "folder":
        found["corpus"] = configuration.corpus_files
    if benchmark.pool_files and benchmark.pool_files.source == "folder":
        found["pool_files"] = [
            file for name in configuration.pool_files for file in glob.glob(name) or [name]
        ]
    for key, files in found.items():
        if not files:
            raise UserError(f"benchmark.{key}.files: no file has such a name")
        for file in files:
            if not os.path.isfile(file):
                raise UserError(f"benchmark.{key}.files: there is no file {file}")


def with_given(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a merged configuration whose parts that `--config` gave are read as YAML reads them.

    given: what Snakemake made of `--config`: within mappings and lists all is text to it.
    """
    return {
        key: _read_as_yaml(value, given[key]) if key in given else value
        for key, value in values.items()
    }


def _read_as_yaml(value: Any, given: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(given, Mapping):
        return {
            key: _of_text(_read_as_yaml(part, given[key])) if key in given else part
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_of_text(_read_as_yaml(part, part)) for part in value]
    return value


def _of_text(value: Any) -> Any:
    """Return the number, truth value or null that a text is to YAML; all else as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        return value
    return found if found is None or isinstance(found, bool | int | float) else value


def read_configuration(*files: str | Path) -> Configuration:
    """Load configuration files; raises UserError as `read_values` and `load_configuration`."""
    return load_configuration(read_values(*files), files)


def read_values(*files: str | Path) -> dict[str, Any]:
    """Return what configuration files hold, the later over the earlier, as Snakemake merges them.

    Raises UserError if one cannot be read.
    """
    values: dict[str, Any] = {}
    for file in files:
        found = read_yaml(file)
        if not isinstance(found, dict):
            raise UserError(f"{file}: not a configuration: it has no keys")
        _merge(values, found)
    return values


def _merge(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value
