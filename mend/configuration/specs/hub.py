"""What the downloads are told."""

from __future__ import annotations

from mend.configuration.settings import HubName, PathText, Revision, Settings
from mend.configuration.specs.tasks import TasksSpec


class Source(Settings):
    """A data set on the Hugging Face hub."""

    repository: HubName
    """Its name, such as `allenai/c4`."""

    revision: Revision
    """Commit, tag or branch."""


class BenchmarkDownload(Source, TasksSpec):
    """The job that downloads tasks."""


class FilesDownload(Source):
    """A job that downloads running text, or a pool of demonstrations."""

    files: list[PathText]
    """Names, or patterns with a *."""
