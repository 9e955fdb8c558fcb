"""The divergence figure: what a line is the mean of, and how far it goes."""

import pandas as pd
import pytest
from helpers.studies import TASKS, study, study_spec

from mend.errors import UserError
from mend.reporting.figures.divergence import write_divergence

PARTITIONS = ("qa_to_qa", "hr_to_lr")


def measured(folder, method, partition, values, seed=0):
    """A file: values are {(task, region, position): (rows, divergence)}."""
    variant = f"training.seed={seed}" if seed else "default"
    run = {"llm": "small", "method": method, "variant": variant, "condition": "shots=16"}
    rows = [
        {**run, "partition": partition, "task": task, "region": region, "position": position}
        | {"rows": rows, "divergence": value}
        for (task, region, position), (rows, value) in values.items()
    ]
    file = folder / f"{method}-{partition}-{seed}.parquet"
    pd.DataFrame(rows).to_parquet(file)
    return file


@pytest.fixture
def spec():
    names = {"zero-shot": "Zero-shot", "vanilla-icl": "Vanilla ICL", "mend": "MEND"}
    runs = [
        {
            **{"llm": "small", "method": method, "condition": "shots=16", "training_seed": seed},
            "variant": f"training.seed={seed}" if seed and method == "mend" else "default",
            "values": {"run": name},
        }
        for method, name in names.items()
        for seed in (0, 1)
    ]
    axes = [{"name": "run", "values": [*names.values()]}]
    tasks = {"qa_to_qa": TASKS[:2], "hr_to_lr": TASKS[1:]}
    changes = {"axes": axes, "runs": runs, "llms": [{"name": "small"}], "training_seeds": [0, 1]}
    return study(
        partitions=[*PARTITIONS], test_tasks=tasks, reference={}, layout="matrix", **changes
    )


def draw(folder, spec, files):
    (folder / "spec.json").write_text(study_spec(spec).model_dump_json())
    write_divergence(folder / "spec.json", files, folder / "a.png", folder / "a.parquet")
    assert (folder / "a.png").stat().st_size > 10_000
    return pd.read_parquet(folder / "a.parquet")


def lines(table, name):
    own = table[table["line"] == name]
    return own[["region", "position", "mean", "low", "high", "rows"]].to_numpy().tolist()


def test_a_line_is_the_mean_over_rows_tasks_partitions_and_seeds(tmp_path, spec):
    boats, ships, lakes = TASKS
    files = [
        measured(
            tmp_path,
            "mend",
            partition,
            {
                (task, "query", 0): (10, first),
                (task, "query", 1): (6, 2.0),
                (task, "query", 2): (4, 100.0),
                (task, "answer", 0): (10, 1.0),
                (others, "query", 0): (30, first + 4),
                (others, "answer", 0): (30, 3.0),
            },
            seed,
        )
        for partition, task, others in (("qa_to_qa", boats, ships), ("hr_to_lr", lakes, ships))
        for seed, first in ((0, 1.0), (1, 3.0))
    ]
    # Zero-shot was measured once for all partitions: ships counts in both, boats and lakes in one.
    values = {
        (task, region, 0): (10, value)
        for task, value in ((boats, 1.0), (ships, 2.0), (lakes, 7.0))
        for region in ("query", "answer")
    }
    files.append(measured(tmp_path, "zero-shot", "all", values))
    table = draw(tmp_path, spec, files)
    # Seed 0: (10 rows at 1 + 30 at 5) / 40 = 4; seed 1: 2 more. Fewer than half are longer.
    assert lines(table, "MEND") == [
        ["query", 0, 5.0, 4.0, 6.0, 80],
        ["answer", 0, 2.5, 2.5, 2.5, 80],
    ]
    assert lines(table, "Zero-shot") == [
        ["query", 0, 3.0, 3.0, 3.0, 40],
        ["answer", 0, 3.0, 3.0, 3.0, 40],
    ]
    assert "Vanilla ICL" not in set(table["line"])
    seeds = dict(zip(table["line"], table["training_seeds"], strict=True))
    assert seeds == {"MEND": 2, "Zero-shot": 1}


def test_what_is_no_measurement_is_named(tmp_path, spec):
    file = measured(tmp_path, "hypertuning", "all", {(TASKS[0], "query", 0): (1, 1.0)})
    with pytest.raises(UserError, match="no divergence was measured of its runs"):
        draw(tmp_path, spec, [file])
    pd.read_parquet(file).drop(columns="region").to_parquet(file)
    with pytest.raises(UserError, match=r"hypertuning-all-0\.parquet: divergences lack.*region"):
        draw(tmp_path, spec, [file])
