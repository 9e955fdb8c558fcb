"""What training cost, added up from the records of runs."""

from mend.reporting.training_costs import same_steps, training_costs


def record(method, steps, stage="finetune", **more):
    return {"llm": "l", "method": method, "stage": stage, "steps": steps, **more}


def test_costs_are_added_up_by_stage():
    records = [
        record("mend", 30, seconds=2.0, device="cpu", cpu="Chip 1", parameters_trained=7),
        record("mend", 20, seconds=4.0, stopped_early=True, parameters_trained=7, utilisation=0.41),
        record("mend", 20, seconds=None, parameters_trained=7, utilisation=0.38),
        record("mend", 50, "pretrain"),
        record("hypertuning", 10),
    ]
    rows = training_costs(records, ["hypertuning", "mend"])
    places = [(row["method"], row["stage"], row["runs"]) for row in rows]
    assert places == [
        ("hypertuning", "finetune", 1),
        ("mend", "pretrain", 1),
        ("mend", "finetune", 3),
    ]
    assert rows[2]["steps"] == (20, 30)
    assert (rows[2]["seconds"], rows[2]["seconds_per_run"]) == (6.0, 3.0)
    assert rows[2]["devices"] == ["cpu (Chip 1)"]
    assert rows[2]["stopped_early"] == 1
    assert rows[2]["utilisation"] == (0.38, 0.41)
    assert rows[1]["seconds"] is None
    assert rows[1]["utilisation"] is None


def test_same_steps_looks_at_each_partition():
    equal = [
        record(m, s, partition=p) for m in ("mend", "hypertuning") for p, s in (("a", 1), ("b", 2))
    ]
    assert same_steps(equal) is True
    swapped = [
        *equal[:2],
        record("hypertuning", 2, partition="a"),
        record("hypertuning", 1, partition="b"),
    ]
    assert same_steps(swapped) is False
    assert same_steps(equal[:2]) is None
