"""From evaluation episodes to token ids: the items that are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute

from mend.configuration.conditions import RETRIEVED, SELECTIONS
from mend.data.cuts import add_cuts, log_cuts
from mend.data.demonstrations import Demonstrations, pairs_of
from mend.data.layout import source_split
from mend.data.parquet import NUMBER, TEXT, check_row_numbers, read_columns
from mend.data.perturbation import Demonstration, perturb_rows
from mend.data.tasks import TaskRows, load_rows
from mend.data.template import Shown, Template
from mend.errors import UserError
from mend.progress import logger


@dataclass(frozen=True)
class MultipleChoiceItem:
    """A query and its options, as token ids, after the demonstrations it is asked with.

    Of a free-form task it has no options, and its query ends with what stands before an answer.

    context: equal for items whose demonstrations are the same tokens, and only for them.
    demonstrations: token ids; where demonstrations are distilled in groups, those of each group.
    longest: tokens that context, query and one option may have together; of more the oldest fall
        off. None: they fit.
    """

    context: int
    demonstrations: Sequence[int] | Sequence[Sequence[int]]
    query: Sequence[int]
    options: Sequence[Sequence[int]]
    longest: int | None = None

    def kept_demonstrations(self) -> Sequence[int] | Sequence[Sequence[int]]:
        """Return the demonstrations that stay before the longest option."""
        if self.longest is None:
            return self.demonstrations
        room = self.longest - len(self.query) - max(map(len, self.options))
        return Demonstrations(pairs_of(self.demonstrations)).last(max(0, room))


class DemonstrationReader:
    """Turns the demonstrations of an evaluation row into the token ids of its context."""

    def __init__(
        self,
        template: Template,
        selection: str = "train",
        perturbation: str | None = None,
        sampling_seed: int = 0,
        group: int | None = None,
    ) -> None:
        """Set up for one file of episodes.

        selection: how they were chosen (see `write_evaluation_episodes`). Where demonstrations
        exceed the limit, the template's rule holds; of retrieved ones the last stay, which are the
        nearest.
        perturbation, sampling_seed: see `mend.data.perturbation`.
        group: so many demonstrations at a time are a context of their own; None for all.
        """
        self.template, self.group = template, group
        self.split = source_split(selection)
        self.nearest_last = selection in RETRIEVED
        self.perturbation, self.sampling_seed = perturbation, sampling_seed
        self._rows: dict[tuple[str, int], Sequence[Demonstration]] = {}
        self._shown: dict[tuple, Shown] = {}
        #: Contexts (or groups) that were made, and those that no demonstration fitted into.
        self.made = self.empty = 0

    def __call__(
        self, rows: TaskRows, task: str, seed: int, numbers: Sequence[int], limit: int
    ) -> Shown:
        """Return the rows `numbers` as they are shown; their ids in groups, if there are groups.

        limit: the longest context, or the longest group, in tokens.
        Without demonstrations there is one empty group.
        """
        key = task, seed, tuple(numbers), limit
        if key not in self._shown:
            if (task, seed) not in self._rows:
                self._rows[task, seed] = self._read(rows, task, seed)
            shown = [self._rows[task, seed][number] for number in numbers]
            self._shown[key] = self._grouped(shown, limit)
        return self._shown[key]

    def _grouped(self, demonstrations: Sequence[Demonstration], limit: int) -> Shown:
        if self.group is None:
            return self._context(demonstrations, limit)
        starts = range(0, max(1, len(demonstrations)), self.group)
        groups = [
            self._context(demonstrations[start : start + self.group], limit) for start in starts
        ]
        ids, cut, left_out = zip(*groups, strict=True)
        return Shown(list(ids), sum(cut), sum(left_out))

    def _context(self, demonstrations: Sequence[Demonstration], limit: int) -> Shown:
        shown = self.template.demonstrations(demonstrations, limit, self.nearest_last)
        self.made += 1
        self.empty += bool(demonstrations and not shown.ids)
        return shown

    def _read(self, rows: TaskRows, task: str, seed: int) -> Sequence[Demonstration]:
        found = rows.rows(self.split, seed)
        if self.perturbation is None:
            return [row[:2] for row in found]
        return perturb_rows(found, self.perturbation, self.sampling_seed, task, seed, self.split)


def read_items(
    episodes: str | Path,
    tasks: str | Path,
    split: str,
    template: Template,
    limit: int,
    only: Sequence[str],
    seeds: Sequence[int] | None = None,
    rows_per_task: int | None = None,
    after_context: bool = True,
    reads_demonstrations: bool = True,
    context_length: int | None = None,
    keeps_positions: bool = False,
    starts: bool = True,
    longest_answers: Mapping[str, int] | None = None,
    **settings,
) -> tuple[list[dict], list[MultipleChoiceItem]]:
    """Return evaluation rows and, in the same order, their multiple-choice items.

    split: "dev" or "test", where the queries are; limit: the longest context in tokens, or, in
    groups, the longest group.
    only, seeds, rows_per_task: leave out the rest.
    after_context: whether anything stands before the query.
    reads_demonstrations: if not, all items share one context without demonstrations.
    context_length: positions that a context takes in place of its demonstrations (in groups, of
    each); None if it has theirs, which then take what query and longest option leave.
    keeps_positions: whether it comes after theirs (`mend.configuration.methods`).
    starts: whether the LLM reads a token of its own before a context. Without one, a row with
    neither context nor query has nothing that predicts its options, and is refused.
    longest_answers: of free-form tasks, the most tokens of an answer that is to be generated.
    settings: perturbation, sampling_seed and group, as in `DemonstrationReader`.
    A row is a dictionary of task, seed, row, gold (the right option's index) and options, and of
    what was cut: query_cut (whether), demonstrations (how many there were), demonstrations_cut and
    demonstrations_left_out. Where anything was, the log says how much, by task. Of a free-form task
    gold is -1, and output the right answer.
    Raises UserError, naming the row, if nothing stands before its options, if it has none though
    its task is not told to be free-form, if an option leaves no
    room for its query, or if vectors, query and longest option do not fit the LLM.
    """
    table = read_columns(
        episodes,
        {"task": TEXT, "seed": NUMBER, "row": NUMBER, "demonstrations": [NUMBER]},
        "evaluation episodes",
        {"selection": TEXT},
    )
    table = table.filter(pyarrow.compute.is_in(table["task"], pyarrow.array(list(only))))
    missing = sorted(set(only) - set(table["task"].to_pylist()))
    if missing:
        raise UserError(f"{episodes}: no rows of {', '.join(missing)}")
    selection = "train"
    if "selection" in table.column_names:
        selection, *others = table["selection"].unique().to_pylist()
        if others or selection not in SELECTIONS:
            raise UserError(f"{episodes}: column selection has other names than one of SELECTIONS")
    read = DemonstrationReader(template, selection, **settings)
    task_rows = {task: load_rows(tasks, task) for task in only}
    if seeds is not None:
        table = table.filter(pyarrow.compute.is_in(table["seed"], pyarrow.array(list(seeds))))
    _check_rows(table, task_rows, split, source_split(selection), episodes)
    contexts: dict[tuple, int] = {}
    taken: dict[tuple[str, int], int] = {}
    rows, items, cuts = [], [], {}
    for record in table.to_pylist():
        task, seed = record["task"], record["seed"]
        taken[task, seed] = taken.get((task, seed), 0) + 1
        if rows_per_task is not None and taken[task, seed] > rows_per_task:
            continue
        x, y, options = task_rows[task].rows(split, seed)[record["row"]]
        answer = (longest_answers or {}).get(task)
        where = f"{task_rows[task].path}, {split} row {record['row']} of seed {seed}"
        if not options and answer is None:
            raise UserError(f"{where}: it has no options, and its task is not told to be free-form")
        start = [] if answer is None else template.answer_start()
        longest = template.longest(options) if answer is None else len(start) + answer
        query = template.query(x, after_context, longest, where)
        numbers = record["demonstrations"] if reads_demonstrations else []
        show = partial(read, task_rows[task], task, seed, numbers)
        # With oldest-tokens, what falls off depends on the option: items have all that may stay.
        together = (
            None
            if context_length is not None or answer is not None
            else template.longest_together(len(numbers))
        )
        room = limit
        if context_length is None or keeps_positions:
            left = template.room_before(len(query), longest, len(numbers))
            room = max(0, min(limit, left - (context_length or 0)))
        context = show(room)
        whole = context if together is None else show(together)
        if together is not None:
            together = max(together, len(query) + longest)
            if len(whole.ids) + len(query) + longest <= together:
                together = None
        if context_length is not None:
            groups = len(context.ids) if read.group else 1
            template.check_vectors(groups * context_length, len(query), longest, where)
        before = context.ids if context_length is None else context_length
        if not (starts or query or before):
            raise UserError(
                f"{where}: its input has no tokens and nothing stands before it, so nothing "
                "predicts its options' first token; leave the row out, or set llms.NAME.prefix: bos"
            )
        rows.append(
            {
                "task": task,
                "seed": seed,
                "row": record["row"],
                "gold": options.index(y) if answer is None else -1,
                "options": options,
                "query_cut": template.is_cut(x, query, after_context),
                "demonstrations": len(numbers),
                "demonstrations_cut": context.cut,
                "demonstrations_left_out": context.left_out,
            }
        )
        encoded = [template.option(option) for option in options]
        number = contexts.setdefault(_hashable(whole.ids), len(contexts))
        items.append(MultipleChoiceItem(number, whole.ids, query + start, encoded, together))
        if answer is not None:
            rows[-1]["output"] = y
    for row in rows:
        counts = {"queries": 1, "queries_cut": int(row["query_cut"])}
        counts |= {key: value for key, value in row.items() if key.startswith("demonstrations")}
        add_cuts(cuts, {row["task"]: counts})
    log_cuts(f"{episodes}, {split} rows", cuts)
    if read.empty:
        logger.warning(
            "%s: %d of %d contexts are empty, because not one demonstration fits the longest "
            "context of %d tokens, or what the query leaves of the LLM's positions",
            episodes,
            read.empty,
            read.made,
            limit,
        )
    return rows, items


def _check_rows(
    table: pyarrow.Table, tasks: Mapping[str, TaskRows], split: str, source: str, episodes: Any
) -> None:
    """Raise UserError unless every row that episodes name is there, and none is there twice."""
    groups = table.group_by(["task", "seed"]).aggregate([]).to_pylist()
    for group in groups:
        task, seed = group["task"], group["seed"]
        own = table.filter(
            (pyarrow.compute.field("task") == task) & (pyarrow.compute.field("seed") == seed)
        )
        where = f"{episodes}: task {task}, seed {seed}: column"
        check_row_numbers(own["row"], len(tasks[task].rows(split, seed)), f"{where} row")
        if len(own["row"].unique()) < len(own):
            raise UserError(f"{where} row names a row twice; make the file again")
        if any(map(len, own["demonstrations"])):
            size = len(tasks[task].rows(source, seed))
            check_row_numbers(own["demonstrations"], size, f"{where} demonstrations")


def _hashable(tokens: Sequence[int] | Sequence[Sequence[int]]) -> tuple:
    return tuple(part if isinstance(part, int) else tuple(part) for part in tokens)
