"""Tasks of one's own: where their rows are, and which columns are input, output and options."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from mend.configuration.choices import TaskType
from mend.configuration.settings import Count, PathText, Revision, Seed, Settings, Text

_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

OPTION_NUMBER = "option-number"
"""What `labels` is where an output is an option's number, from 0."""


def columns_of(template: str) -> list[str]:
    """Return the columns that a template such as "{premise} Question: {hypothesis}" names.

    Raises ValueError for a brace that belongs to no column; {{ and }} are braces of the text.
    """
    columns = []
    for part in _PARTS.finditer(template):
        if part[1]:
            columns.append(part[1])
        elif part[0] not in ("{{", "}}"):
            raise ValueError(
                "a column's name stands in braces, as in {text}; {{ and }} are braces of the text"
            )
    return columns


def fill(template: str, value: Any) -> str:
    """Return a template's text; value: a function that returns the text of a column."""
    braces = {"{{": "{", "}}": "}"}
    return _PARTS.sub(lambda part: braces.get(part[0]) or value(part[1]), template)


def _balanced(template: str) -> str:
    columns_of(template)
    return template


def _of_columns(template: str) -> str:
    if not columns_of(template):
        raise ValueError(
            "it names no column; write a column's name in braces, such as {text}, and text around "
            "it as you like"
        )
    return template


def _text_keys(labels: Any) -> Any:
    """Return labels by text, as YAML reads 0 as a number and true as a truth value."""
    if not isinstance(labels, dict):
        return labels
    return {
        str(key).lower() if isinstance(key, bool) else str(key): name
        for key, name in labels.items()
    }


Columns = Annotated[Text, AfterValidator(_of_columns)]
"""Text with the names of columns in braces."""

Words = Annotated[Text, AfterValidator(_balanced)]
"""The same; it may name no column."""

Side = Literal["train", "dev", "test"]


class Shares(Settings):
    """Shares of rows that are split off."""

    dev: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    """Of the rows, for dev rows."""

    test: Annotated[float, Field(gt=0, lt=0.9)] = 0.4
    """Of the rows, for test rows."""


class OwnTaskRows(Settings):
    """The rows of a task of one's own."""

    rows: PathText | dict[Side, PathText]
    """A file (.csv, .jsonl, .parquet) or, of `dataset`, a split; or one for each of train, dev and
    test. Dev and test rows that are not named are split off the train rows."""

    dataset: PathText | None = None
    """What the library datasets loads: a folder, or a name on the Hugging Face hub."""

    dataset_config: Text | None = None
    """Of `dataset`: which of its configurations."""

    revision: Revision | None = None
    """Of a dataset on the hub: commit or tag; pin it."""

    input: Columns
    """The query, with columns in braces: "{premise} Question: {hypothesis}". {a.b.0} is a part of a
    column that holds objects or lists."""

    output: Columns
    """The right answer, with columns in braces."""

    labels: Annotated[dict[str, Words], BeforeValidator(_text_keys)] | Literal["option-number"] = {}
    """What an output stands for, such as {0: negative, 1: positive} or {0: "{choice1}"}; or
    option-number: an output is the number of an option, from 0."""

    options: Annotated[list[Words], Field(min_length=2)] | Columns | None = None
    """What may be right: texts, which may have columns in braces, or one column that holds a list.
    Left out: what `labels` gives, or else every output that there is."""

    type: TaskType | None = None
    """free-form: no options, what is generated is scored. Left out: multi-choice if options are
    made of columns, classification if not."""

    shares: Shares = Shares()
    """Shares of the rows that become dev and test rows, if `rows` names none."""

    seed: Seed = 0
    """Seed of the split, and of the rows that are demonstrations."""

    @property
    def task_type(self) -> str:
        """The type, also if it is left out."""
        words = self.options or (self.labels.values() if isinstance(self.labels, dict) else ())
        texts = [words] if isinstance(words, str) else words
        if self.type:
            return self.type
        return "multi-choice" if any(map(columns_of, texts)) else "classification"

    @property
    def sources(self) -> dict[str, str]:
        """Where the rows of each side are."""
        return {"train": self.rows} if isinstance(self.rows, str) else dict(self.rows)


class OwnTasksSpec(Settings):
    """The job that writes one's own tasks in MetaICL's layout."""

    tasks: dict[str, OwnTaskRows]
    """The tasks."""

    train_tasks: list[str]
    """Those that are meta-train tasks of a partition."""

    test_tasks: list[str]
    """Those that are meta-test tasks of a partition."""

    seeds: list[Seed]
    """Each has demonstrations and dev rows of its own."""

    shots: Count
    """K: a task has at least so many train rows."""

    train_rows: Count
    """A meta-train task has at least so many rows: those of an episode."""

    pool: Count | None = None
    """Rows of the larger train files; null: there are none."""
