"""A small study with predictions whose numbers can be worked out by hand."""

from __future__ import annotations

import itertools

import pandas as pd

from mend.configuration.specs.reporting import StudySpec

TASKS = ["boats", "ships", "lakes"]
SEEDS = [13, 21]
ROWS = 20
LLMS = ("small", "large")


def right_answers(run, task, seed, partition):
    """How many of ROWS a run of `spec` answers rightly."""
    length = {"length=4": 1, "default": 2, "length=32": 4}[run["variant"]]
    skill = {"MEND": 4, "HyperTuning": 2, "Vanilla ICL": 5}[run["values"]["run"]]
    noise = TASKS.index(task) + SEEDS.index(seed)
    if run["method"] == "vanilla-icl":
        return skill + noise
    # On the second partition more vectors are worse.
    return skill + noise + (5 - length if partition == "hr_to_lr" else length)


def predictions_of(spec, partitions):
    """Predictions as `read_predictions` returns them; ICL's once, for `all` partitions."""
    rows = []
    for run in {tuple(sorted((k, str(v)) for k, v in r.items())): r for r in spec["runs"]}.values():
        for partition in ["all"] if run["method"] == "vanilla-icl" else partitions:
            for task, seed, row in itertools.product(TASKS, SEEDS, range(ROWS)):
                wrong = row >= right_answers(run, task, seed, partition)
                length = {"length=4": 4, "default": 16, "length=32": 32}[run["variant"]]
                if run["method"] == "vanilla-icl":
                    length = 60 + 20 * TASKS.index(task) + row % 2
                rows.append(
                    {
                        **{key: run[key] for key in ("llm", "method", "variant", "condition")},
                        "partition": partition,
                        "task": task,
                        "seed": seed,
                        "row": row,
                        "context_length": length,
                        "context_bytes": 8 * length,
                        "making_flops": 900.0 if run["method"] == "mend" else 0.0,
                        "reading_flops": 10.0 * length + 100,
                        "gold": 0,
                        "predicted": int(wrong),
                        "gold_text": "yes",
                        "predicted_text": "no" if wrong else "yes",
                    }
                )
    table = pd.DataFrame(rows)
    return table.drop_duplicates([*table.columns[:9]]).reset_index(drop=True)


def study_spec(content):
    """The specification of a study; all tasks are of each partition, unless it says otherwise."""
    tasks = dict.fromkeys(content["partitions"], TASKS)
    return StudySpec(**{"test_tasks": tasks, **content})


def study(**changes):
    """A study of three runs and three lengths; ICL has no length, so its points are one run."""
    variants = {4: "length=4", 16: "default", 32: "length=32"}
    methods = {"Vanilla ICL": "vanilla-icl", "HyperTuning": "hypertuning", "MEND": "mend"}
    spec = {
        "name": "length",
        "title": "Number of vectors",
        "command": "snakemake --cores all results/length.csv",
        "llms": [{"name": llm, "paper_llm": None} for llm in LLMS],
        "partitions": ["qa_to_qa", "hr_to_lr"],
        "seeds": SEEDS,
        "task_types": dict.fromkeys(TASKS, "multi-choice"),
        "benchmark": "pocket",
        "axes": [
            {"name": "run", "values": list(methods)},
            {"name": "length", "values": list(variants)},
        ],
        "runs": [
            {
                "llm": llm,
                "method": method,
                "variant": "default" if label == "Vanilla ICL" else variant,
                "condition": "shots=16",
                "values": {"run": label, "length": length},
            }
            for llm in LLMS
            for label, method in methods.items()
            for length, variant in variants.items()
        ],
        "reference": {"run": "MEND"},
        "score": "mean",
        "context_share_of": None,
        "paper": None,
        "claims": [],
    }
    return {**spec, **changes}


def two_trainings():
    """A study of two training seeds, the second a row of 20 better for MEND; and predictions."""
    spec = study(partitions=["qa_to_qa"], training_seeds=[0, 1])
    predictions = predictions_of(spec, spec["partitions"])
    again = predictions[predictions["method"] != "vanilla-icl"].copy()
    again["variant"] += ",training.seed=1"
    keys = ["llm", "method", "variant", "task", "seed"]
    wrong = again.assign(wrong=again["row"].where(again["predicted"] == 1))
    first_wrong = wrong.groupby(keys)["wrong"].transform("min")
    better = (again["row"] == first_wrong) & (again["method"] == "mend")
    again.loc[better, "predicted"] = 0
    again.loc[better, "predicted_text"] = "yes"
    runs = spec["runs"]
    spec["runs"] = [{**run, "training_seed": seed} for run in runs for seed in (0, 1)]
    for run in spec["runs"]:
        if run["training_seed"] and run["method"] != "vanilla-icl":
            run["variant"] += ",training.seed=1"
    return spec, pd.concat([predictions, again], ignore_index=True)
