"""The copy of the workflow that these tests share."""

from helpers.workflow import workflow  # noqa: F401
