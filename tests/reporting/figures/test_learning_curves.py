"""Learning curves of a study's trainings: what a line is the mean of, and against what it is."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.studies import study, study_spec

from mend.configuration.choices import LOSSES
from mend.configuration.specs.reporting import StudyRun
from mend.errors import UserError
from mend.reporting.figures.learning_curves import QUANTITIES, write_learning_curves
from mend.reporting.figures.lines import lines_of, mean_and_range

PARTITIONS = ("qa_to_qa", "hr_to_lr")


def write_training(folder, method, stage, variant, partition, batch, rows):
    """A training's folder: rows are {step: {quantity: value}}."""
    place = folder / method / variant / (partition or "pretrain") / stage
    place.mkdir(parents=True)
    steps = max(rows)
    record = {"llm": "small", "method": method, "stage": stage, "variant": variant}
    record |= {"partition": partition, "steps": steps, "examples": steps * batch}
    (place / "record.json").write_text(json.dumps(record))
    lines = [json.dumps({"step": step, **row}) for step, row in rows.items()]
    (place / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return place


def table2(methods, seeds=(0,), select=False):
    """A study without axes, as table 2 is: a run of each method and training seed."""
    names = {"mend": "MEND", "hypertuning": "HyperTuning"}
    runs = []
    for method in methods:
        for seed in seeds:
            parts = ["finetune.learning_rate=0.1~0.2"] * select
            parts += [f"training.seed={seed}"] * bool(seed)
            runs.append(
                {
                    **{"llm": "small", "method": method, "condition": "shots=16"},
                    **{"variant": ",".join(parts) or "default", "training_seed": seed},
                    "values": {"run": names[method]},
                }
            )
    axes = [{"name": "run", "values": [names[method] for method in methods]}]
    llms = [{"name": "small"}]
    changes = {"axes": axes, "runs": runs, "llms": llms, "training_seeds": list(seeds)}
    return study(partitions=list(PARTITIONS), reference={}, layout="matrix", **changes)


def draw(folder, spec, trainings, choices=()):
    (folder / "spec.json").write_text(study_spec(spec).model_dump_json())
    files = [folder / "curves.png", folder / "curves.parquet"]
    write_learning_curves(folder / "spec.json", trainings, choices, *files)
    assert files[0].stat().st_size > 10_000
    return pd.read_parquet(files[1]).set_index(["stage", "line", "quantity"]).sort_index()


def columns(table, stage, line, quantity):
    own = table.loc[[(stage, line, quantity)]]
    return own[["examples", "mean", "low", "high"]].to_numpy().tolist()


def test_a_line_is_the_mean_over_partitions_and_seeds_against_examples(tmp_path):
    scores = {("qa_to_qa", 0): (10, 20, 60), ("hr_to_lr", 0): (30, 40)}
    scores |= {("qa_to_qa", 1): (20, 30, 40), ("hr_to_lr", 1): (40, 50, 60)}
    trainings = [
        write_training(
            tmp_path,
            *("mend", "finetune", f"training.seed={seed}" if seed else "default", partition),
            batch=8,
            rows={5 * n: {"dev_score": score} for n, score in enumerate(values, start=1)},
        )
        for (partition, seed), values in scores.items()
    ]
    # Another batch: as many examples in half the steps.
    for partition in PARTITIONS:
        rows = {5: {"dev_score": 50.0, "pred": 4.0}}
        run = ("hypertuning", "finetune", "default", partition)
        trainings.append(write_training(tmp_path, *run, batch=16, rows=rows))
    table = draw(tmp_path, table2(["mend", "hypertuning"], seeds=(0, 1)), trainings)
    # Seed 0: (10 + 30) / 2 and (20 + 40) / 2, where the second partition stops; seed 1: 30 and 40.
    expected = [[40, 25, 20, 30], [80, 35, 30, 40]]
    assert columns(table, "finetune", "MEND", "dev_score") == expected
    assert columns(table, "finetune", "HyperTuning", "dev_score") == [[80, 50, 50, 50]]
    assert columns(table, "finetune", "HyperTuning", "pred") == [[80, 4, 4, 4]]
    assert ("finetune", "MEND", "pred") not in table.index
    seeds = table["training_seeds"].groupby("line").unique().map(list).to_dict()
    assert seeds == {"MEND": [2], "HyperTuning": [1]}


def test_the_curve_of_what_was_chosen_is_that_of_the_chosen_candidate(tmp_path):
    trainings, choices = [], []
    for rate, loss in ((0.1, 1.0), (0.2, 2.0)):
        for partition in PARTITIONS:
            run = ("mend", "finetune", f"finetune.learning_rate={rate}", partition)
            trainings.append(write_training(tmp_path, *run, batch=2, rows={10: {"pred": loss}}))
    rows = {1: {"distill": 3.0}, 10: {"distill": 1.0}}
    run = ("mend", "pretrain", "default", None)
    trainings.append(write_training(tmp_path, *run, batch=4, rows=rows))
    for partition, rate in zip(PARTITIONS, (0.2, 0.1), strict=True):
        folder = tmp_path / "chosen" / partition
        folder.mkdir(parents=True)
        record = {"llm": "small", "method": "mend", "stage": "finetune", "partition": partition}
        record["variant"] = "finetune.learning_rate=0.1~0.2"
        record["chosen"] = f"finetune.learning_rate={rate}"
        (folder / "record.json").write_text(json.dumps(record))
        choices.append(folder)
    spec = table2(["mend"], select=True)
    table = draw(tmp_path, spec, trainings, choices)
    assert columns(table, "finetune", "MEND", "pred") == [[20, 1.5, 1.5, 1.5]]
    assert columns(table, "pretrain", "MEND", "distill") == [[4, 3, 3, 3], [40, 1, 1, 1]]
    # With the first candidate chosen in both, it is that one's alone.
    file = choices[0] / "record.json"
    file.write_text(
        file.read_text().replace(
            '"chosen": "finetune.learning_rate=0.2"', '"chosen": "finetune.learning_rate=0.1"'
        )
    )
    assert columns(draw(tmp_path, spec, trainings, choices), "finetune", "MEND", "pred") == [
        [20, 1, 1, 1]
    ]


def test_series_with_other_places_are_joined_by_straight_lines():
    found = mean_and_range(
        {0: [([0, 10], [0, 10]), ([0, 5, 20], [0, 0, 30])], 1: [([0, 10], [9, 9])]}
    )
    # At 5 and 10 the second of seed 0 is 0 and 10, the first 5 and 10; seed 1 is 9.
    assert found["x"].tolist() == [0, 5, 10]
    assert found["mean"].tolist() == [4.5, (2.5 + 9) / 2, 9.5]
    assert found["low"].tolist() == [0, 2.5, 9]
    assert found["high"].tolist() == [9, 9, 10]
    shares = mean_and_range({0: [(np.arange(6), np.arange(6))]}, parts=2)
    assert (shares["x"].tolist(), shares["mean"].tolist()) == ([1, 4], [1, 4])
    assert len(mean_and_range({0: [([], [])]})["x"]) == 0


def test_points_of_one_training_are_one_line():
    runs = [
        StudyRun(
            llm="small",
            method="mend",
            # The last run's points are trainings of their own.
            variant=variant or f"shots={shots}",
            condition=f"shots={shots}",
            values={"run": name, "shots": shots},
        )
        for name, variant in (("MEND", "a"), ("Again", "a"), ("Other", "b"), ("Longer", ""))
        for shots in (1, 4)
    ]
    spec = study_spec(
        study(
            runs=runs, axes=[{"name": "run", "values": ["MEND"]}, {"name": "shots", "values": [1]}]
        )
    )
    lines = lines_of(spec, "small", lambda run: None if run.variant == "b" else run.variant)
    assert lines == {
        "MEND, Again": {0: "a"},
        "Longer, K = 1": {0: "shots=1"},
        "Longer, K = 4": {0: "shots=4"},
    }


def test_every_loss_has_a_panel():
    assert {*LOSSES, "dev_score"} == {*QUANTITIES}


def test_what_cannot_be_drawn_is_told(tmp_path):
    with pytest.raises(UserError, match=r"studies\.length: nothing is trained"):
        draw(tmp_path, table2(["mend"]), [])
    run = ("mend", "pretrain", "default", None)
    place = write_training(tmp_path, *run, batch=4, rows={1: {"distill": 3.0}})
    file = place / "record.json"
    file.write_text(file.read_text().replace('"examples"', '"other"'))
    with pytest.raises(UserError, match=r"record\.json: it has no steps and examples"):
        draw(tmp_path, table2(["mend"]), [place])
