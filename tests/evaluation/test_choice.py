"""Choosing among trained candidates by their dev scores, and predicting with what was chosen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.jobs import changed, prediction, specification, write_data
from helpers.models import random_llm
from safetensors.torch import load_file, save_file

from mend.configuration.specs.choice import ChoiceSpec
from mend.errors import UserError
from mend.evaluation.choice import choose
from mend.evaluation.predict import run_prediction
from mend.methods.built import build_method
from mend.provenance import changed_inputs


def write_training(folder: Path, score: float | None, weight: float, step: int = 4) -> Path:
    folder.mkdir(parents=True)
    save_file({"prompt": torch.tensor([weight])}, folder / "weights.safetensors")
    record = {"llm": "a", "method": "mend", "stage": "finetune", "variant": folder.name}
    record |= {"steps": 6, "best_step": step, "best_score": score, "commit": "abc"}
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "mend.json").write_text(json.dumps({"made by": folder.name}), encoding="utf-8")
    return folder


def choice_of(*variants: str) -> ChoiceSpec:
    return ChoiceSpec(
        llm="a",
        method="mend",
        variant="length=" + "~".join(variants),
        partition="qa_to_qa",
        candidates=[
            {"variant": v, "settings": {"length": number}} for number, v in enumerate(variants)
        ],
    )


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [((10.0, 30.0, 20.0), "second"), ((30.0, 10.0, 30.0), "first"), ((0.0, 0.0, 0.5), "third")],
)
def test_the_best_dev_score_is_chosen_and_of_equal_ones_the_first(tmp_path, scores, chosen) -> None:
    names = ("first", "second", "third")
    folders = [
        write_training(tmp_path / name, score, weight=place, step=place + 1)
        for place, (name, score) in enumerate(zip(names, scores, strict=True))
    ]
    choose(choice_of(*names), folders, tmp_path / "chosen")
    place = names.index(chosen)
    weights = load_file(tmp_path / "chosen/weights.safetensors")
    assert weights["prompt"].tolist() == [place]
    record = json.loads((tmp_path / "chosen/record.json").read_text(encoding="utf-8"))
    assert record["chosen"] == chosen
    described = (tmp_path / "chosen/mend.json").read_text(encoding="utf-8")
    assert json.loads(described) == {"made by": chosen}
    assert record["settings"] == {"length": place}
    assert record["best_score"] == scores[place]
    assert (record["variant"], record["partition"]) == ("length=first~second~third", "qa_to_qa")
    assert record["commit"] == "abc"
    assert record["candidates"] == [
        {
            "variant": name,
            "settings": {"length": number},
            "dev_score": score,
            "step": number + 1,
            "steps": 6,
        }
        for number, (name, score) in enumerate(zip(names, scores, strict=True))
    ]


def test_a_candidate_that_was_replaced_under_an_old_time_is_found(tmp_path) -> None:
    folders = [write_training(tmp_path / name, 1.0, 0) for name in ("first", "second")]
    choose(choice_of("first", "second"), folders, tmp_path / "runs/chosen")
    chosen = tmp_path / "runs/chosen/weights.safetensors"
    assert changed_inputs([chosen]) == []
    weights = folders[1] / "weights.safetensors"
    before = weights.stat()
    save_file({"prompt": torch.tensor([3.0])}, weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))
    assert changed_inputs([chosen]) == [str(weights)]


@pytest.mark.parametrize("score", ["10", float("nan"), float("inf"), True, [1.0]])
def test_a_dev_score_that_is_no_number_is_told(tmp_path, score) -> None:
    folders = [write_training(tmp_path / name, score, 0) for name in ("first", "second")]
    with pytest.raises(UserError, match="first/record.json: best_score, .* are no numbers"):
        choose(choice_of("first", "second"), folders, tmp_path / "chosen")


def test_every_candidate_has_a_folder(tmp_path) -> None:
    folders = [write_training(tmp_path / "first", 1.0, 0)]
    with pytest.raises(UserError, match="2 candidates, and --candidates names 1 folders"):
        choose(choice_of("first", "second"), folders, tmp_path / "chosen")


def test_a_candidate_without_a_dev_score_is_told(tmp_path) -> None:
    folders = [write_training(tmp_path / name, None, 0) for name in ("first", "second")]
    with pytest.raises(UserError, match="first/record.json: no dev score.*finetune.early_stopping"):
        choose(choice_of("first", "second"), folders, tmp_path / "chosen")
    assert not (tmp_path / "chosen").exists()


def test_what_is_predicted_has_the_length_that_was_chosen(tmp_path) -> None:
    write_data(tmp_path)
    spec = specification(tmp_path, "gpt2", "prompt-tuning", stage="finetune")
    folders = []
    for length, score in ((2, 10.0), (5, 20.0)):
        folder = write_training(tmp_path / f"length={length}", score, 0)
        own = changed(spec, method={"settings": {"length": length}})
        build_method(random_llm(), own).save(folder / "weights.safetensors")
        folders.append(folder)
    choice = ChoiceSpec(
        llm="gpt2",
        method="prompt-tuning",
        variant="length=2~5",
        partition="all",
        candidates=[
            {"variant": f.name, "settings": {"length": n}}
            for f, n in zip(folders, (2, 5), strict=True)
        ],
    )
    choose(choice, folders, tmp_path / "chosen")
    data = (tmp_path / "test.parquet", tmp_path / "tasks")
    run_prediction(prediction(spec), *data, tmp_path / "chosen.parquet", tmp_path / "chosen")
    found = pyarrow.parquet.read_table(tmp_path / "chosen.parquet")["context_length"].to_pylist()
    assert set(found) == {5}
    # The chosen training itself, predicted with its own settings, gives the same scores.
    itself = prediction(changed(spec, method={"settings": {"length": 5}}))
    run_prediction(itself, *data, tmp_path / "itself.parquet", folders[1])
    scores = [
        pyarrow.parquet.read_table(tmp_path / f"{name}.parquet")["scores"].to_pylist()
        for name in ("chosen", "itself")
    ]
    assert scores[0] == scores[1]
