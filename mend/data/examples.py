"""From chunks and training episodes to token ids: the examples that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pyarrow.parquet

from mend.data.tasks import load_rows
from mend.data.template import Template
from mend.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Example:
    """Demonstrations and the queries that share them, as token ids.

    demonstrations: what the method reads; teacher_demonstrations: what the teacher reads (the
    same, unless `longest_context` differs between LLM and distiller).
    queries: pairs (x, y); y is empty in pretraining.
    teacher_states: (tokens, width), what `mend.training.losses.teacher_states` returns for the
        example, if it is known already.
    """

    demonstrations: Sequence[int]
    teacher_demonstrations: Sequence[int]
    queries: Sequence[tuple[Sequence[int], Sequence[int]]]
    teacher_states: Tensor | None = None


class ChunkExamples:
    """Pretraining examples: a chunk's first part is D, the rest is x (section 3.2)."""

    def __init__(
        self,
        chunks: str | Path,
        beta: float,
        limits: dict[str, int],
        seed: int,
        teacher: Sequence[Tensor] | None = None,
    ) -> None:
        """Read the chunks' Parquet.

        beta: the share of a chunk that is D. limits: the longest D for `llm` and `distiller`,
        in tokens (`protocol.longest_context`); of a longer one the last tokens stay, next to x.
        seed: the order in which chunks come. teacher: its states, where they are kept.
        """
        table = pyarrow.parquet.read_table(chunks, columns=["input_ids"])
        if not table.num_rows:
            raise UserError(f"{chunks}: no chunk; the corpus is shorter than one window")
        # Lists of one Arrow column stay in Arrow: a chunk becomes Python numbers when it is read.
        self.ids = table["input_ids"].combine_chunks()
        self.beta, self.limits = beta, limits
        self.order = numpy.random.default_rng(seed).permutation(len(self.ids))
        self.teacher = teacher

    def __len__(self) -> int:
        """How many different examples there are."""
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        """Return example `index`; after the last chunk the first comes again."""
        index %= len(self.order)
        ids = self.ids[int(self.order[index])].as_py()
        cut = min(max(1, int(self.beta * len(ids))), len(ids) - 1)
        return Example(
            demonstrations=ids[max(0, cut - self.limits["distiller"]) : cut],
            teacher_demonstrations=ids[max(0, cut - self.limits["llm"]) : cut],
            queries=[(ids[cut:], [])],
            teacher_states=None if self.teacher is None else self.teacher[index],
        )


class EpisodeExamples:
    """Finetuning examples: K demonstrations of a meta-training task and the queries after them."""

    def __init__(
        self,
        episodes: str | Path,
        tasks: str | Path,
        template: Template,
        limits: dict[str, int],
        teacher: Sequence[Tensor] | None = None,
    ) -> None:
        """Read the episodes' Parquet and the rows of their tasks.

        limits: as in `ChunkExamples`. teacher: its states, where they are kept.
        """
        table = pyarrow.parquet.read_table(episodes)
        self.task = table["task"].to_pylist()
        self.demonstrations = table["demonstrations"]
        self.queries = table["queries"]
        self.rows = {task: load_rows(tasks, task) for task in sorted(set(self.task))}
        self.template, self.limits, self.teacher = template, limits, teacher

    def __len__(self) -> int:
        """How many different examples there are."""
        return len(self.task)

    def __getitem__(self, index: int) -> Example:
        """Return example `index`; after the last episode the first comes again."""
        index %= len(self.task)
        rows = self.rows[self.task[index]].rows("meta_train")
        demonstrations = [rows[row][:2] for row in self.demonstrations[index].as_py()]
        queries = [
            self.template.answered_query(*rows[row][:2], after_context=True)
            for row in self.queries[index].as_py()
        ]
        return Example(
            demonstrations=self.template.demonstrations(demonstrations, self.limits["distiller"]),
            teacher_demonstrations=self.template.demonstrations(demonstrations, self.limits["llm"]),
            queries=queries,
            teacher_states=None if self.teacher is None else self.teacher[index],
        )
