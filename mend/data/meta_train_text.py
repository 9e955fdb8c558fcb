"""Text to pretrain on where there is no other: the inputs of meta-train rows."""

from __future__ import annotations

import json
from pathlib import Path

from mend.atomic_io import atomic_folder
from mend.configuration.specs.meta_train_text import MetaTrainTextSpec
from mend.data.tasks import count_rows, load_rows
from mend.errors import UserError
from mend.progress import logger

FILE = "meta-train.jsonl"


def write_meta_train_text(
    spec: MetaTrainTextSpec, tasks_folder: str | Path, output_folder: str | Path
) -> None:
    """Write `output_folder/meta-train.jsonl`, an object with the key text for each input.

    Tasks come one after the other. Some tasks are of one data set with other labels: an input that
    a meta-test row has as well, be it one that is shown, tuned or tested on, is left out.
    Raises UserError as `load_rows`, and if no text is left.
    """
    of_test_rows = {
        row.input
        for task in spec.test_tasks
        for split, seed in count_rows(tasks_folder, task)
        if split in ("train", "dev", "test")
        for row in load_rows(tasks_folder, task).rows(split, seed)
    }
    written = left_out = 0
    with atomic_folder(output_folder) as folder:
        with (folder / FILE).open("w", encoding="utf-8") as file:
            for task in spec.train_tasks:
                for row in load_rows(tasks_folder, task).rows("meta_train"):
                    if row.input in of_test_rows:
                        left_out += 1
                    else:
                        file.write(json.dumps({"text": row.input}) + "\n")
                        written += 1
        if not written:
            raise UserError(f"{tasks_folder}: no meta-train row has a text of its own")
    logger.info(
        "the inputs of %d rows of %d tasks; %d that meta-test rows have are left out",
        written,
        len(spec.train_tasks),
        left_out,
    )
