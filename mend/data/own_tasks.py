"""Tasks of one's own: rows of tables, turned into MetaICL's layout by templates.

The Snakefile imports this module while it is parsed, to check rows before any job: no pyarrow here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mend.atomic_io import atomic_folder, write_json
from mend.configuration.choices import MOST_META_TRAIN_ROWS, TRAIN_ROWS
from mend.configuration.specs.own_tasks import (
    OPTION_NUMBER,
    OwnTaskRows,
    OwnTasksSpec,
    columns_of,
    fill,
)
from mend.configuration.words import closest, cut, listed
from mend.data.layout import META_TRAIN_SEED, BenchmarkFile, benchmark_files
from mend.data.seeding import generator
from mend.data.tables import own_files, table_rows
from mend.errors import UserError
from mend.progress import Progress, logger
from mend.provenance import RECORD, checksums

MOST_LABELS = 100
"""Different outputs that are taken for labels where nothing says what the options are."""


class OwnRow(NamedTuple):
    """A row as its template has it; where: what messages call it."""

    where: str
    input: str
    output: str
    options: list[str]


def write_own_tasks(spec: OwnTasksSpec, output_folder: str | Path) -> None:
    """Write tasks as MetaICL's files have them: `output_folder/data/TASK/TASK_16_SEED_SPLIT.jsonl`.

    A meta-test task has, for each seed, 16 of its train rows and 16 of its dev rows (all, if they
    are fewer), drawn by the seed, and all of its test rows; with a pool also a larger train file,
    which begins with the 16. A meta-train task has its train rows, 16,384 at most; one that is no
    meta-test task of any partition, and whose dev and test rows have no files, all of its rows.
    RECORD says what the folder was made of. Raises UserError as `read_own_task`.
    """
    progress = Progress("own tasks", len(spec.tasks))
    with atomic_folder(output_folder) as folder:
        for count, (name, task) in enumerate(spec.tasks.items(), start=1):
            sides = read_own_task(spec, name)
            of = [[name] if name in names else [] for names in (spec.train_tasks, spec.test_tasks)]
            for file in benchmark_files(*of, spec.seeds, spec.pool):
                path = folder / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w", encoding="utf-8") as stream:
                    for row in _rows_of(file, task, sides, spec.pool):
                        content = {"task": name, **row._asdict()}
                        del content["where"]
                        stream.write(json.dumps(content) + "\n")
            counts = ", ".join(f"{len(rows)} {side}" for side, rows in sides.items() if rows)
            logger.info("%s: %s rows", name, counts)
            progress.update(count, name)
        files = (file for task in spec.tasks.values() for file in own_files(task))
        made_of = checksums(files, Path(output_folder) / RECORD)
        write_json({"made_of": made_of}, folder / RECORD)


def read_own_task(spec: OwnTasksSpec, name: str) -> dict[str, list[OwnRow]]:
    """Return a task's rows of the sides train, dev and test, checked.

    Dev and test rows that have no files of their own are split off the train rows at random; rows
    with one input stay together. Of a data set, where nobody can mend it, train and dev rows whose
    input is that of a test row (and train rows, of a dev row) are left out.

    Raises:
        UserError: naming the file and line, or the key, for a column that is not there, an empty
            input or output, an output that is no option, a row of files that is on two sides, and
            too few rows.
    """
    task, key = spec.tasks[name], f"benchmark.own_tasks.{name}"
    tested = name in spec.test_tasks
    sides = {
        side: [_row(task, where, row, key) for where, row in table_rows(task, source)]
        for side, source in task.sources.items()
    }
    for side, rows in sides.items():
        if not rows:
            raise UserError(f"{task.sources[side]}: it has no rows ({key}.rows)")
    if task.task_type != "free-form":
        _add_options(task, sides, key)
    if len(sides) > 1:
        sides = _apart(task, sides, key)
    if tested:
        _split_off(task, name, sides)
    least = {"train": spec.shots} if tested else {}
    if name in spec.train_tasks:
        least["train"] = max(spec.train_rows, least.get("train", 0))
    if tested:
        least |= {"dev": 1, "test": 1}
    for side, number in least.items():
        if (found := len(sides.get(side, ()))) < number:
            rest = ", ".join(f"{len(rows)} {side}" for side, rows in sides.items())
            raise UserError(
                f"{key}: it has {found} {side} rows, and {number} are needed (of all its rows: "
                f"{rest}); give more rows, other `shares`, or fewer benchmark.shots"
            )
    return {side: sides.get(side, []) for side in ("train", "dev", "test")}


def _row(task: OwnTaskRows, where: str, row: Mapping[str, Any], key: str) -> OwnRow:
    """Return a row's texts; its options only as far as they are the row's own."""

    def text(template: str) -> str:
        return fill(template, lambda column: _text(_value(row, column, where), column, where))

    texts = {}
    for part in ("input", "output"):
        template = getattr(task, part)
        columns = columns_of(template)
        if not any(_text(_value(row, name, where), name, where).strip() for name in columns):
            raise UserError(
                f"{where}: {part} is empty: nothing in {listed(columns)} ({key}.{part})"
            )
        texts[part] = text(template)
    options = task.options or []
    if isinstance(options, str):
        options = _list(options, row, where, key)
    else:
        options = [text(option) for option in options]
    output = texts["output"]
    if task.labels == OPTION_NUMBER:
        numbers = [str(number) for number in range(len(options))]
        if output not in numbers:
            raise UserError(
                f"{where}: output {cut(repr(output), 60)} is not the number of an option, of 0 to "
                f"{len(options) - 1} ({key}.labels)"
            )
        output = options[int(output)]
    elif task.labels:
        if output not in task.labels:
            raise UserError(
                f"{where}: output {cut(repr(output), 60)} is not among the labels "
                f"{listed(task.labels)} ({key}.labels)"
            )
        output = text(task.labels[output])
        if not options and task.task_type != "free-form":
            options = [text(label) for label in task.labels.values()]
    return OwnRow(where, texts["input"], output, options)


def _value(row: Mapping[str, Any], column: str, where: str) -> Any:
    """Return the value of a column, or of a part of it such as `choices.text.0`."""
    if column in row:
        return row[column]
    name, *parts = column.split(".")
    if name not in row:
        known = [str(key) for key in row]
        raise UserError(
            f"{where}: there is no column {column}{closest(column, known)}; there are "
            f"{listed(known)}"
        )
    value = row[name]
    for part in parts:
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError, ValueError):
            raise UserError(f"{where}: column {name} has no part {column}") from None
    return value


def _text(value: Any, column: str, where: str) -> str:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: column {column} holds half of a surrogate pair, which is no character"
            ) from None
        return value
    if value is None or value != value:  # nan: how tables say that there is nothing
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    parts = isinstance(value, (list, dict))
    told = f"write {{{column}.PART}} for one of its parts" if parts else "turn it into text"
    raise UserError(
        f"{where}: column {column} is neither text nor a number, but a {type(value).__name__}; "
        f"{told}"
    )


def _list(template: str, row: Mapping[str, Any], where: str, key: str) -> list[str]:
    """Return the options of a column that holds a list."""
    column = columns_of(template)[0]
    value = _value(row, column, where)
    if template != f"{{{column}}}" or not isinstance(value, list):
        raise UserError(
            f"{where}: column {column} holds no list; options are a list of texts, or one column "
            f"with a list ({key}.options)"
        )
    return [_text(option, column, where) for option in value]


def _add_options(task: OwnTaskRows, sides: dict[str, list[OwnRow]], key: str) -> None:
    """Give rows their options where all have the same, and check that the right one is there."""
    if not (task.options or task.labels):
        labels = sorted({row.output for rows in sides.values() for row in rows})
        if len(labels) > MOST_LABELS:
            raise UserError(
                f"{key}.output: there are {len(labels)} different outputs, too many to be labels; "
                "name `options`, or write type: free-form if there are none"
            )
        for side, rows in sides.items():
            sides[side] = [row._replace(options=labels) for row in rows]
    for row in (row for rows in sides.values() for row in rows):
        if len(row.options) < 2:
            raise UserError(
                f"{row.where}: fewer than two options, {listed(row.options)}; a task without any "
                f"is of type: free-form ({key})"
            )
        if empty := [option for option in row.options if not option.strip()]:
            raise UserError(f"{row.where}: option {empty[0]!r} is empty ({key}.options)")
        if row.output not in row.options:
            raise UserError(
                f"{row.where}: output {cut(repr(row.output), 60)} is not among the options "
                f"{listed(row.options)} ({key})"
            )


def _apart(task: OwnTaskRows, sides: dict[str, list[OwnRow]], key: str) -> dict[str, list[OwnRow]]:
    """Return rows of which none has an input that is on another side, too."""
    held_out: dict[str, str] = {}
    apart = {}
    for side in ("test", "dev", "train"):
        rows = sides.get(side, [])
        both = [row for row in rows if row.input in held_out]
        if both and not task.dataset:
            raise UserError(
                f"{both[0].where}: a {side} row with the input of {held_out[both[0].input]}; "
                f"leave it out on one side ({key}.rows)"
            )
        if both:
            logger.warning(
                "%s: %d of %d %s rows have the input of a row that is held out; they are left out",
                key,
                len(both),
                len(rows),
                side,
            )
        if side in sides:
            apart[side] = [row for row in rows if row.input not in held_out]
        held_out |= {row.input: row.where for row in rows if row.input not in held_out}
    return apart


def _split_off(task: OwnTaskRows, name: str, sides: dict[str, list[OwnRow]]) -> None:
    """Split dev and test rows that are not there off the train rows."""
    missing = [side for side in ("test", "dev") if side not in sides]
    rows = sides["train"]
    inputs = list(dict.fromkeys(row.input for row in rows))
    order = [inputs[i] for i in generator(task.seed, "split", name).permutation(len(inputs))]
    start = 0
    for side in missing:
        size = max(1, round(getattr(task.shares, side) * len(inputs)))
        chosen = set(order[start : start + size])
        sides[side] = [row for row in rows if row.input in chosen]
        start += size
    left = set(order[start:])
    sides["train"] = [row for row in rows if row.input in left]


def _rows_of(
    file: BenchmarkFile, task: OwnTaskRows, sides: Mapping[str, Sequence[OwnRow]], pool: int | None
) -> Iterable[OwnRow]:
    """Return the rows of one of MetaICL's files."""
    if file.split == "test":
        return sides["test"]
    side = "dev" if file.split == "dev" else "train"
    rows, most = sides[side], {"pool": pool, "meta_train": MOST_META_TRAIN_ROWS}
    seed = () if file.seed == META_TRAIN_SEED and file.split == "meta_train" else (file.seed,)
    order = generator(task.seed, side, file.task, *seed).permutation(len(rows))
    return [rows[i] for i in order[: most.get(file.split, TRAIN_ROWS)]]
