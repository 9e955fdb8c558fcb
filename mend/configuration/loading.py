"""The configuration: loaded, checked in every way that needs no job, and filled in."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mend.configuration.checks import check_values
from mend.configuration.presets import with_preset
from mend.configuration.schema import check_schema
from mend.configuration.task_list import Task, partition_needs, read_task_list
from mend.data.tasks import check_benchmark, describe_missing, remaining_needs
from mend.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Configuration:
    """A configuration that passed all checks.

    values: every key, those left out filled in from the preset.
    tasks: the task list.
    needs: {partition: {"train": names, "test": names}} of the partitions that can run.
    listed_test_tasks: {partition: names}, also of tasks whose files are not there.
    files: the configuration files, in the order in which they were merged.
    """

    values: Mapping[str, Any]
    tasks: Mapping[str, Task]
    needs: Mapping[str, Mapping[str, Sequence[str]]]
    listed_test_tasks: Mapping[str, Sequence[str]]
    files: Sequence[str] = ()

    def __getitem__(self, key: str) -> Any:
        """Return a top-level section of the values."""
        return self.values[key]

    @property
    def results(self) -> str:
        """The folder for everything that is made, without a slash at the end."""
        return self.values["results"].rstrip("/")

    @property
    def benchmark_folder(self) -> str:
        """The folder that holds data/TASK: the user's own, or the one that a job fills."""
        source = self["benchmark"]["tasks"]
        return (
            source["folder"] if source["source"] == "folder" else f"{self.results}/data/benchmark"
        )

    @property
    def corpus_files(self) -> list[str]:
        """The files of the corpus, which a job may yet have to make."""
        corpus = self["benchmark"]["corpus"]
        if corpus["source"] == "pocket":
            return [f"{self.benchmark_folder}/corpus/part-00000.jsonl"]
        if corpus["source"] == "hub":
            return [f"{self.results}/data/corpus/{name}" for name in corpus["files"]]
        folder = glob.escape(corpus.get("folder", self.benchmark_folder))
        patterns = [f"{folder}/{pattern}" for pattern in corpus["files"]]
        return [file for pattern in patterns for file in sorted(glob.glob(pattern))]


def load_configuration(
    values: Mapping[str, Any], files: Iterable[str | Path] = ()
) -> Configuration:
    """Check and complete a configuration.

    values: the merged configuration; files: where it came from, for messages.
    Raises UserError for whatever is wrong, naming the file and key, or the file and line of a
    task's row.
    """
    files = [str(file) for file in files]
    check_schema(values, files)
    values = with_preset(values)
    try:
        check_values(values)
    except UserError as error:
        where = f"{', '.join(files)}: " if files else ""
        raise UserError(f"{where}{error}") from None
    tasks = read_task_list(values["benchmark"]["task_list"])
    listed = partition_needs(tasks, values["benchmark"]["partitions"], values["protocol"])
    needs = _present_tasks(values, tasks, listed)
    test_tasks = {partition: roles["test"] for partition, roles in listed.items()}
    configuration = Configuration(values, tasks, needs, test_tasks, files)
    if not configuration.corpus_files:
        raise UserError("benchmark.corpus.files: no file has such a name")
    stopping = values["training"]["pretrain"]["early_stopping"]
    if stopping and stopping["partition"] not in needs:
        raise UserError(
            f"training.pretrain.early_stopping.partition: {stopping['partition']} is not among the "
            f"partitions that can run, {', '.join(needs)}"
        )
    return configuration


def _present_tasks(
    values: Mapping[str, Any], tasks: Mapping[str, Task], listed: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return what each partition reads, without tasks whose files are not there."""
    benchmark = values["benchmark"]
    if benchmark["tasks"]["source"] != "folder":
        return listed
    folder = benchmark["tasks"]["folder"]
    missing = check_benchmark(
        folder,
        tasks,
        listed,
        benchmark["seeds"],
        stamp=Path(values["results"]) / "data" / "checked.json",
        missing_tasks=benchmark.get("missing_tasks", "error"),
        pool=benchmark.get("pool"),
    )
    needs = remaining_needs(listed, missing)
    if missing:
        logger.warning("%s", describe_missing(folder, missing))
    if gone := [name for name in listed if name not in needs]:
        names = ", ".join(gone)
        logger.warning("partitions without any meta-train or meta-test task: %s", names)
    if not set(needs) & set(values["studies"]["table2"]["partitions"]):
        raise UserError("benchmark.missing_tasks: skip leaves no partition of studies.table2")
    return needs
