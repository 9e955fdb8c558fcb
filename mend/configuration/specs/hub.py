"""What the downloads are told."""

from __future__ import annotations

from mend.configuration.settings import Settings, Text
from mend.configuration.specs.tasks import TasksSpec


class Source(Settings):
    """A data set on the Hugging Face hub."""

    repository: Text
    """Its name, such as `allenai/c4`."""

    revision: Text
    """Commit, tag or branch."""


class BenchmarkDownload(Source, TasksSpec):
    """The job that downloads tasks."""


class FilesDownload(Source):
    """A job that downloads running text, or a pool of demonstrations."""

    files: list[Text]
    """Names, or patterns with a *."""
