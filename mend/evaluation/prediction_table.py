"""Reading and checking predictions: which option each method chose for each test row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute

from mend.data.parquet import NUMBER, REAL, TEXT, read_columns
from mend.errors import UserError

RUN = ("llm", "method", "variant", "condition")
"""What names a run, but for its partition."""

COLUMNS = dict.fromkeys([*RUN, "partition", "task"], TEXT)
COLUMNS |= dict.fromkeys(["seed", "row", "context_length", "context_bytes", "gold"], NUMBER)
COLUMNS |= {"making_flops": REAL, "reading_flops": REAL, "options": [TEXT], "scores": [REAL]}
"""The columns of predictions that are read, and their kinds."""

ANSWER_COLUMNS = dict.fromkeys(["output", "generated"], TEXT)
ANSWER_COLUMNS |= dict.fromkeys(["exact_match", "f1", "rouge_l"], REAL)
"""Those that there are besides where a task is free-form; empty in rows with options."""

CONTEXT_COSTS = ["context_length", "context_bytes", "making_flops", "reading_flops"]
"""What of a context predictions say, as `run_prediction` writes it."""

IDENTITY = [*RUN, "partition", "task", "seed", "row"]


def read_predictions(files: Iterable[str | Path]) -> pd.DataFrame:
    """Read prediction files and choose each row's option: the one with the highest score.

    A file that is named twice is read once. Of options with equal scores the first is chosen.
    Returns a row for each test row with columns llm, method, variant, condition, partition, task,
    seed, row, those of CONTEXT_COSTS, gold and predicted (option indices; -1 in free-form tasks),
    gold_text and predicted_text; where a task is free-form also exact_match, f1 and rouge_l, in per
    cent. Raises UserError for a file that is not Parquet, a missing column, a row without options,
    a number of scores other than the number of options, a gold index out of range, a score that is
    not finite, or a row that is there twice.
    """
    frames = [_read_file(path) for path in dict.fromkeys(map(Path, files))]
    if not frames:
        raise UserError("no prediction files were given")
    predictions = pd.concat(frames, ignore_index=True)
    twice = predictions.duplicated(IDENTITY)
    if twice.any():
        raise UserError(f"predictions hold a row twice: {_name_row(predictions[twice].iloc[0])}")
    return predictions


def check_same_rows(predictions: pd.DataFrame) -> None:
    """Raise UserError unless all runs were tested on the same rows of each task and seed."""
    row_key = ["task", "seed", "row"]
    truth = predictions[[*row_key, "gold", "gold_text"]].drop_duplicates()
    differing = truth.duplicated(row_key)
    if differing.any():
        task, seed, row = truth.loc[differing, row_key].iloc[0]
        raise UserError(
            f"runs disagree on the right option of task {task}, seed {seed}, row {row}; "
            "predict again from the same tasks"
        )
    expected = truth.groupby(["task", "seed"]).size()
    found = predictions.groupby([*RUN, "partition", "task", "seed"]).size()
    for (llm, method, variant, condition, partition, task, seed), count in found.items():
        if count != expected[task, seed]:
            raise UserError(
                f"{method} with {llm} on {partition} ({variant}, {condition}) has {count} rows of "
                f"task {task}, seed {seed}, where the runs together have {expected[task, seed]}; "
                "all runs must see the same test rows"
            )


def by_partition(
    table: pd.DataFrame,
    llms: Sequence[str],
    methods: Sequence[str],
    test_tasks: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """The part of a table (predictions or scores) that a study needs, checked to be complete.

    A run that is not finetuned has rows of the partition `all`; they are copied to each
    partition by the partition's test tasks. Other rows of `table` are left out. Raises UserError
    naming the first LLM, method and partition with a task or a seed that is absent.
    """
    wanted_seeds = {int(seed) for seed in seeds}
    groups = dict(iter(table[table["seed"].isin(wanted_seeds)].groupby(["llm", "method"])))
    parts = []
    for llm in llms:
        for method in methods:
            rows = groups.get((llm, method))
            if rows is None:
                raise UserError(f"there are no predictions of {method} with {llm}")
            for partition, tasks in test_tasks.items():
                own = rows["partition"] == partition
                part = rows[own] if own.any() else rows[rows["partition"] == "all"]
                part = part[part["task"].isin(tasks)]
                _check_complete(part, f"{method} with {llm} on {partition}", tasks, wanted_seeds)
                parts.append(part.assign(partition=partition))
    return pd.concat(parts, ignore_index=True)


def _check_complete(part: pd.DataFrame, name: str, tasks: Sequence[str], seeds: set[int]) -> None:
    found = set(zip(part["task"], part["seed"].astype(int), strict=True))
    absent_tasks = sorted(set(tasks) - {task for task, _ in found})
    if absent_tasks:
        raise UserError(f"predictions of {name} lack the tasks {', '.join(absent_tasks)}")
    for task in tasks:
        absent_seeds = sorted(seed for seed in seeds if (task, seed) not in found)
        if absent_seeds:
            listed = ", ".join(map(str, absent_seeds))
            raise UserError(f"predictions of {name} lack the seeds {listed} of task {task}")


def _read_file(path: Path) -> pd.DataFrame:
    answers = {"optional": ANSWER_COLUMNS, "may_be_empty": ANSWER_COLUMNS}
    table = read_columns(path, COLUMNS, "predictions", **answers)
    if table.num_rows == 0:
        raise UserError(f"{path}: holds no predictions")
    if "generated" not in table.column_names:
        return chosen_options(table, path)
    if absent := sorted(ANSWER_COLUMNS.keys() - {*table.column_names}):
        raise UserError(f"{path}: predictions with answers lack the columns {', '.join(absent)}")
    free = table["generated"].is_valid()
    parts = [_answers(table.filter(free), path)]
    with_options = table.filter(pyarrow.compute.invert(free)).drop_columns([*ANSWER_COLUMNS])
    if with_options.num_rows:
        parts.insert(0, chosen_options(with_options, path))
    return pd.concat(parts, ignore_index=True)


def _answers(table: pyarrow.Table, path: Path) -> pd.DataFrame:
    """Return rows of free-form tasks: predicted is -1, predicted_text what was generated."""
    for name in ANSWER_COLUMNS:
        if table[name].null_count:
            raise UserError(f"{path}: a row with a generated answer has no {name}")
    frame = table.drop_columns(["options", "scores", "output", "generated"]).to_pandas()
    frame["predicted"] = -1
    frame["gold_text"] = table["output"].to_pandas()
    frame["predicted_text"] = table["generated"].to_pandas()
    return frame


def chosen_options(table: pyarrow.Table, source: str | Path) -> pd.DataFrame:
    """Choose each row's option: the one with the highest score, of equal ones the first.

    `table` has R rows with gold (an option's index) and the lists options and scores, of C_r items
    each. Returns it without the lists, and with predicted (index), gold_text and predicted_text.
    Raises UserError, naming `source`, for a row without options, a number of scores other than the
    number of options, a gold index out of range, or a score that is not finite.
    """
    frame = table.drop_columns(["options", "scores"]).to_pandas()
    options, scores = table["options"].combine_chunks(), table["scores"].combine_chunks()

    def refuse_where(wrong: np.ndarray, problem: str) -> None:
        if wrong.any():
            row = _name_row(frame.iloc[int(np.flatnonzero(wrong)[0])])
            raise UserError(f"{source}: {problem}: {row}")

    counts = pyarrow.compute.list_value_length(options).to_numpy().astype(np.int64)
    score_counts = pyarrow.compute.list_value_length(scores).to_numpy()
    gold = frame["gold"].to_numpy()
    refuse_where(counts == 0, "a row has no options")
    refuse_where(counts != score_counts, "a row has not one score for each option")
    refuse_where((gold < 0) | (gold >= counts), "gold is not the index of an option")
    starts = np.cumsum(counts) - counts
    values = scores.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    infinite = np.logical_or.reduceat(~np.isfinite(values), starts)
    refuse_where(infinite, "a score is not a finite number (NaN or infinite)")
    best = np.repeat(np.maximum.reduceat(values, starts), counts)
    index = np.arange(len(values)) - np.repeat(starts, counts)
    # The first of equal scores: options that are not the best get an index past the end.
    predicted = np.minimum.reduceat(np.where(values == best, index, len(values)), starts)
    texts = options.flatten()
    frame["predicted"] = predicted
    frame["gold_text"] = texts.take(pyarrow.array(starts + gold)).to_pandas()
    frame["predicted_text"] = texts.take(pyarrow.array(starts + predicted)).to_pandas()
    return frame


def _name_row(row: pd.Series) -> str:
    place = f"task {row['task']}, seed {row['seed']}, row {row['row']}"
    if "llm" not in row:
        return place
    run = f"{row['method']} with {row['llm']} on {row['partition']}"
    return f"{run} ({row['variant']}, {row['condition']}), {place}"
