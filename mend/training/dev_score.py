"""The score that early stopping looks at."""

from __future__ import annotations

from pathlib import Path

import pyarrow

from mend.configuration.specs.training import EarlyStopping
from mend.errors import UserError
from mend.evaluation.metrics import scores_by_task
from mend.evaluation.predict import items_for
from mend.evaluation.prediction_table import chosen_options
from mend.evaluation.scoring import score_items
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM


class DevScore:
    """Mean score over the meta-test tasks' dev rows, in per cent (`training.*.early_stopping`)."""

    def __init__(
        self,
        llm: FrozenLLM,
        method: BuiltMethod,
        stopping: EarlyStopping,
        dev: str | Path,
        tasks: str | Path | None,
    ) -> None:
        """Read the rows of evaluation episodes that `stopping` names: tasks, seed, rows_per_task.

        tasks: the folder of task rows.
        """
        if tasks is None:
            raise UserError("train: --dev needs --tasks, the folder of task rows")
        self.llm, self.method, self.stopping = llm, method, stopping
        self.rows, self.items = items_for(
            llm,
            method,
            dev,
            tasks,
            "dev",
            list(stopping.tasks),
            seeds=[stopping.seed],
            rows_per_task=stopping.rows_per_task,
        )

    def __call__(self) -> float:
        """Score the method as it is now, without dropout, also where training leaves it on."""
        dropout = self.llm.model.training
        self.llm.model.eval()
        scores = score_items(self.llm, self.method, self.items, self.stopping.option_score)
        self.llm.model.train(dropout)
        rows = [{**row, "scores": of_row} for row, of_row in zip(self.rows, scores, strict=True)]
        chosen = chosen_options(pyarrow.Table.from_pylist(rows), "dev rows")
        by_task = scores_by_task(chosen, self.stopping.tasks, self.stopping.metrics)["score"]
        return sum(by_task) / len(by_task)
