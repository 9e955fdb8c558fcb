"""From chunks and training episodes to token ids: the examples that are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pyarrow.compute

from mend.data.cuts import CutCounts
from mend.data.layout import Row
from mend.data.parquet import NUMBER, TEXT, check_row_numbers, read_columns
from mend.data.tasks import labels_of, load_rows
from mend.data.template import Template
from mend.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


MOST_OTHERS = 7
"""Wrong options of a query that are looked at in training: the first, as rows have them."""

CORPUS = "(corpus)"
"""What stands for a task where chunks are counted."""


@dataclass(frozen=True)
class Example:
    """Demonstrations and the queries that share them, as token ids.

    demonstrations: what the method reads; teacher_demonstrations: what the teacher reads (the
    same, unless `longest_context` differs between LLM and distiller).
    queries: pairs (x, y); y is empty in pretraining.
    teacher_states: (tokens, width), what `mend.training.losses.teacher_states` returns for the
        example, if it is known already.
    others: for each query, the options of its row that are wrong, if they are asked for.
    cuts: what was cut to fit, by task.
    """

    demonstrations: Sequence[int]
    teacher_demonstrations: Sequence[int]
    queries: Sequence[tuple[Sequence[int], Sequence[int]]]
    teacher_states: Tensor | None = None
    others: Sequence[Sequence[Sequence[int]]] = ()
    cuts: Mapping[str, CutCounts] = field(default_factory=dict)


class ChunkExamples:
    """Pretraining examples: a chunk's first part is D, the rest is x (section 3.2)."""

    def __init__(
        self,
        chunks: str | Path,
        beta: float,
        limits: dict[str, int],
        seed: int,
        positions: int,
        context_length: int | None = None,
        keeps_positions: bool = False,
    ) -> None:
        """Read the chunks' Parquet.

        beta: the share of a chunk that is D. limits: the longest D for `llm` and `distiller`,
        in tokens (`protocol.longest_context`); of a longer one the last tokens stay, next to x.
        seed: the order in which chunks come. positions: how many tokens the LLM can read, x
        included. context_length, keeps_positions: of the method's contexts (`MethodSettings`).
        Raises UserError if there is no chunk, or vectors and x do not fit the LLM.
        """
        if beta is None:
            raise UserError("training.beta is missing, which says where a chunk is cut")
        table = read_columns(chunks, {"input_ids": [NUMBER]}, "chunks")
        if not table.num_rows:
            raise UserError(f"{chunks}: no chunk; the corpus is shorter than one window")
        lengths = pyarrow.compute.list_value_length(table["input_ids"])
        if pyarrow.compute.min(lengths).as_py() < 2:
            raise UserError(f"{chunks}: a chunk of fewer than two tokens; make the file again")
        # Lists of one Arrow column stay in Arrow: a chunk becomes Python numbers when it is read.
        self.ids = table["input_ids"].combine_chunks()
        self.beta, self.limits, self.positions = beta, limits, positions
        self.taken = (context_length or 0) if keeps_positions else None
        self.order = numpy.random.default_rng(seed).permutation(len(self.ids))
        window = pyarrow.compute.max(lengths).as_py()
        rest = window - self._cut(window)
        length = context_length or 0
        if rest + length > positions:
            raise UserError(
                f"training.pretrain.beta: {beta} leaves {rest} of a chunk's {window} tokens to be "
                f"predicted after {length} vectors (length), but the LLM has {positions} "
                "positions; raise beta, or lower length or benchmark.corpus.window"
            )

    def __len__(self) -> int:
        """How many different examples there are."""
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        """Return example `index`; after the last chunk the first comes again."""
        index %= len(self.order)
        ids = self.ids[int(self.order[index])].as_py()
        cut = self._cut(len(ids))
        left = self.positions - len(ids) + cut
        room, limit = min(self.limits["llm"], left), self.limits["distiller"]
        if self.taken is not None:
            limit = max(1, min(limit, left - self.taken))
        return Example(
            demonstrations=ids[max(0, cut - limit) : cut],
            teacher_demonstrations=ids[max(0, cut - room) : cut],
            queries=[(ids[cut:], [])],
            cuts={
                CORPUS: {
                    "queries": 1,
                    "demonstrations": 1,
                    "demonstrations_cut": int(cut > min(room, limit)),
                }
            },
        )

    def _cut(self, tokens: int) -> int:
        """How many of a chunk's tokens are D: at least one, and at least one is left."""
        return min(max(1, int(self.beta * tokens)), tokens - 1)


class EpisodeExamples:
    """Finetuning examples: K demonstrations of a meta-training task and the queries after them."""

    def __init__(
        self,
        episodes: str | Path,
        tasks: str | Path,
        template: Template,
        limits: dict[str, int],
        context_length: int | None = None,
        options: bool = False,
        keeps_positions: bool = False,
    ) -> None:
        """Read the episodes' Parquet and the rows of their tasks.

        limits: as in `ChunkExamples`; of what the LLM reads itself, the teacher's tokens and those
        of a method whose contexts have the demonstrations' positions, no more than an episode's
        longest query and answer leave. context_length, keeps_positions: of the method's contexts
        (`MethodSettings`). options: whether examples have their queries' wrong options.
        Raises UserError if vectors, a query and its answer do not fit the LLM. Where a row could be
        that long, all are looked at, so that no training is stopped by one.
        """
        columns = {"task": TEXT, "demonstrations": [NUMBER], "queries": [NUMBER]}
        columns["label_names"] = [TEXT]
        table = read_columns(episodes, columns, "training episodes")
        self.task = table["task"].to_pylist()
        if not self.task:
            raise UserError(f"{episodes}: it has no episodes")
        self.demonstrations = table["demonstrations"]
        self.queries = table["queries"]
        self.label_names = table["label_names"]
        self.rows = {task: load_rows(tasks, task) for task in sorted(set(self.task))}
        self.labels = {task: labels_of(rows.rows("meta_train")) for task, rows in self.rows.items()}
        self._check_rows(episodes, table)
        self.template, self.limits = template, limits
        self.context_length, self.options = context_length, options
        self.keeps_positions = keeps_positions
        if context_length and not template.fits_beside_any(context_length):
            for index in range(len(self)):
                self[index]

    def _check_rows(self, episodes: str | Path, table: pyarrow.Table) -> None:
        """Raise UserError unless all rows that episodes name are there, and each has a query."""
        if pyarrow.compute.min(pyarrow.compute.list_value_length(table["queries"])).as_py() < 1:
            raise UserError(f"{episodes}: an episode has no query; make the file again")
        for task, rows in self.rows.items():
            own = table.filter(pyarrow.compute.equal(table["task"], task))
            size = len(rows.rows("meta_train"))
            for name in ("demonstrations", "queries"):
                check_row_numbers(own[name], size, f"{episodes}: column {name} of task {task}")
            named = set(pyarrow.compute.list_value_length(own["label_names"]).to_pylist())
            if not named <= {0, len(self.labels[task])}:
                raise UserError(
                    f"{episodes}: column label_names of task {task} has another number of labels "
                    "than the task; make the file again"
                )

    def __len__(self) -> int:
        """How many different examples there are."""
        return len(self.task)

    def __getitem__(self, index: int) -> Example:
        """Return example `index`; after the last episode the first comes again."""
        index %= len(self.task)
        rows = self.rows[self.task[index]].rows("meta_train")
        names = self.label_names[index].as_py()
        named = dict(zip(self.labels[self.task[index]], names, strict=True)) if names else {}
        shown_rows, asked_rows = (
            [_renamed(rows[row], named) for row in numbers[index].as_py()]
            for numbers in (self.demonstrations, self.queries)
        )
        demonstrations, asked = ([row[:2] for row in part] for part in (shown_rows, asked_rows))
        queries = [self.template.answered_query(*row, after_context=True) for row in asked]
        # The longest of an episode's queries comes first, and all see the same demonstrations.
        longest = max(queries, key=lambda query: sum(map(len, query)))
        lengths = [len(part) for part in longest]
        room = self.template.room_before(*lengths, len(demonstrations))
        room = min(self.limits["llm"], room)
        limit, taken = self.limits["distiller"], self.context_length
        if taken is not None:
            where = f"{self.rows[self.task[index]].path}, a meta_train row"
            self.template.check_vectors(taken, *lengths, where)
        if taken is None or self.keeps_positions:
            limit = max(0, min(limit, room - (taken or 0)))
        shown = self.template.demonstrations(demonstrations, limit)
        taught = shown if limit == room else self.template.demonstrations(demonstrations, room)
        pairs = list(zip(asked, queries, strict=True))
        cuts = {
            "queries": len(queries),
            "queries_cut": sum(self.template.is_cut(x, ids, True) for (x, _), (ids, _) in pairs),
            "demonstrations": len(demonstrations),
            "demonstrations_cut": shown.cut,
            "demonstrations_left_out": shown.left_out,
            "answers_cut": sum(self.template.is_answer_cut(y, ids) for (_, y), (_, ids) in pairs),
        }
        return Example(
            demonstrations=shown.ids,
            teacher_demonstrations=taught.ids,
            queries=queries,
            others=[
                self._others(row, len(x))
                for row, (x, _) in zip(asked_rows, queries, strict=True)
                if self.options
            ],
            cuts={self.task[index]: cuts},
        )

    def _others(self, row: Row, query: int) -> list[list[int]]:
        """Return a row's wrong options, as far as they fit after its query as demonstrations do."""
        wrong = [option for option in row.options if option != row.output][:MOST_OTHERS]
        before = self.limits["llm"] if self.context_length is None else self.context_length
        found = [self.template.option(option) for option in wrong]
        return [ids for ids in found if self.template.fits(before, query, len(ids))]


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    """Return a row with its labels' names of an episode."""
    if not names:
        return row
    options = [names.get(option, option) for option in row.options]
    return Row(row.input, names.get(row.output, row.output), options)
