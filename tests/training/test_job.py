"""The training and prediction jobs, from files to files, with LLMs of every architecture."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.jobs import SEED, changed, prediction, specification, write_tiny_chunks
from helpers.models import ENCODER_DECODERS, build, random_llm
from safetensors.torch import load_file

from mend.configuration.specs.training import EarlyStopping
from mend.errors import UserError
from mend.evaluation.predict import run_prediction
from mend.evaluation.scoring import score_items
from mend.models import operations
from mend.reporting.training_costs import training_costs
from mend.training import dev_score
from mend.training.dev_score import DevScore
from mend.training.job import run_training


def metrics_of(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl of the finetuning below a folder."""
    lines = (folder / "finetune/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "gpt-neox", *ENCODER_DECODERS])
def test_pretrain_finetune_predict(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, architecture: str
) -> None:
    caplog.set_level("INFO")
    pretraining = {"stage": "pretrain", "beta": 0.75, "losses": {"distill": 1.0}}
    spec = specification(tmp_path, architecture, "mend", **pretraining)
    write_tiny_chunks(data, tmp_path, spec)
    run_training(spec, tmp_path / "pretrain", chunks=tmp_path / "chunks.parquet")

    finetuning = {"stage": "finetune", "losses": {"pred": 1.0, "distill": 1.0}}
    stopping = {"every": 2, "patience": 2, "rows_per_task": 4, "seed": SEED}
    stopping |= {"metrics": "metaicl", "option_score": "mean"}
    finetuning["early_stopping"] = stopping | {"tasks": {"parity": "classification"}}
    spec = changed(spec, training=finetuning | {"partition": "class_to_class"})
    run_training(
        spec,
        tmp_path / "finetune",
        episodes=data / "train.parquet",
        tasks=data / "tasks",
        initial=tmp_path / "pretrain",
        dev_score=partial(
            DevScore,
            stopping=spec.training.early_stopping,
            dev=data / "dev.parquet",
            tasks=data / "tasks",
        ),
    )
    record = json.loads((tmp_path / "finetune/record.json").read_text(encoding="utf-8"))
    assert (record["stage"], record["steps"], record["examples"]) == ("finetune", 4, 8)
    assert record["flops"] > 0
    assert record["peak_precision"] == "float32"
    reached = record["flops"] / record["step_seconds"]
    assert record["utilisation"] == pytest.approx(reached / record["peak_flops"])
    assert 0 < record["step_seconds"] < record["seconds"]
    share = f"TFLOP/s, {100 * record['utilisation']:.3g} % of the "
    assert share in caplog.text
    nothing = {"queries_cut": 0, "demonstrations_cut": 0, "answers_cut": 0}
    shown = {"queries": 16, "demonstrations": 24, "demonstrations_left_out": 0}
    assert record["cuts"] == {"parity": nothing | shown}
    scores = {row["step"]: row["dev_score"] for row in metrics_of(tmp_path) if "dev_score" in row}
    assert record["best_score"] == max(scores.values()) == scores[record["best_step"]]
    assert record["peak_memory_bytes"] > 10**7
    assert [row["step"] for row in metrics_of(tmp_path)] == [1, 2, 3, 4]
    assert sorted(scores) == [2, 4]
    unscored = json.loads((tmp_path / "pretrain/record.json").read_text(encoding="utf-8"))
    assert unscored["best_score"] is None
    assert list(unscored["cuts"]) == ["(corpus)"]
    assert unscored["cuts"]["(corpus)"]["demonstrations_cut"] == 0
    before = load_file(tmp_path / "pretrain/weights.safetensors")
    after = load_file(tmp_path / "finetune/weights.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["distiller.placeholders"], after["distiller.placeholders"])
    assert not (tmp_path / "finetune.checkpoint").exists()

    job = prediction(spec, partition="class_to_class")
    predict = (job, data / "test.parquet", data / "tasks")
    run_prediction(*predict, tmp_path / "predictions.parquet", tmp_path / "finetune")
    rows = pyarrow.parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [row["row"] for row in rows] == list(range(6))
    assert {(row["variant"], row["condition"]) for row in rows} == {("default", "shots=3")}
    assert {row["gold"] for row in rows} == {0, 1}
    assert all(len(row["scores"]) == 2 and all(map(math.isfinite, row["scores"])) for row in rows)
    assert len({tuple(row["scores"]) for row in rows}) == 6


def test_a_job_learns_the_choice_among_the_options_of_its_rows(data: Path, tmp_path: Path) -> None:
    losses = {"pred": 1.0, "choice": 1.0}
    spec = specification(tmp_path, "gpt2", "mend", stage="finetune", losses=losses)
    spec = changed(spec, training={"partition": "class_to_class"})
    run_training(spec, tmp_path / "finetune", episodes=data / "train.parquet", tasks=data / "tasks")
    for row in metrics_of(tmp_path):
        assert row["choice"] > 0
        assert row["loss"] == pytest.approx(row["pred"] + row["choice"], rel=1e-5)


def test_operations_that_are_not_known_are_none_in_the_record(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(body):
        raise ValueError("no matrices are known")

    monkeypatch.setattr(operations, "layers_of", unknown)
    spec = specification(tmp_path, "gpt2", "mend", stage="pretrain", beta=0.75)
    write_tiny_chunks(data, tmp_path, spec)
    run_training(spec, tmp_path / "pretrain", chunks=tmp_path / "chunks.parquet")
    record = json.loads((tmp_path / "pretrain/record.json").read_text(encoding="utf-8"))
    assert record["flops"] is None
    assert record["utilisation"] is None
    assert record["peak_flops"] > 0
    [row] = training_costs([record], ["mend"])
    assert (row["flops_per_run"], row["utilisation"]) == (None, None)


def test_weights_of_another_method_are_refused(data: Path, tmp_path: Path) -> None:
    spec = specification(tmp_path, "gpt2", "prompt-tuning", stage="finetune", losses={"pred": 1.0})
    run_training(spec, tmp_path / "prompt", episodes=data / "train.parquet", tasks=data / "tasks")
    job = prediction(changed(spec, method={"name": "mend"}))
    with pytest.raises(UserError, match="not weights of mend"):
        run_prediction(
            job,
            data / "test.parquet",
            data / "tasks",
            tmp_path / "predictions.parquet",
            tmp_path / "prompt",
        )


def test_a_distiller_of_another_vocabulary_is_refused(data: Path, tmp_path: Path) -> None:
    spec = specification(tmp_path, "gpt2", "mend", stage="finetune", losses={"pred": 1.0})
    smaller = random_llm("gpt2", 8).model
    smaller.resize_token_embeddings(30)
    smaller.save_pretrained(tmp_path / "distiller")
    with pytest.raises(UserError, match="share one tokenizer"):
        run_training(spec, tmp_path / "x", episodes=data / "train.parquet", tasks=data / "tasks")


def test_a_distiller_with_another_tokenizer_is_refused_with_the_reason(
    data: Path, tmp_path: Path
) -> None:
    spec = specification(tmp_path, "gpt2", "mend", stage="finetune", losses={"pred": 1.0})
    file = tmp_path / "distiller" / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["w3"], words["w5"] = words["w5"], words["w3"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'w[35]' is token [35] of the LLM and [35] of the dist"):
        run_training(spec, tmp_path / "x", episodes=data / "train.parquet", tasks=data / "tasks")


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_dev_rows_are_scored_without_the_llms_dropout(
    data: Path, architecture: str, monkeypatch
) -> None:
    scores = []
    monkeypatch.setattr(
        dev_score, "score_items", lambda *inputs: scores.append(score_items(*inputs)) or scores[-1]
    )
    stopping = EarlyStopping(
        every=1,
        patience=1,
        rows_per_task=16,
        seed=SEED,
        tasks={"parity": "classification"},
        metrics="metaicl",
        option_score="mean",
    )
    for dropout in (True, False):
        llm = random_llm(architecture, dropout=dropout)
        method = build(llm, "vanilla-icl")
        score = DevScore(llm, method, stopping, data / "dev.parquet", data / "tasks")
        score()
        assert llm.model.training == dropout  # training goes on as before
    with_dropout, without = scores
    assert with_dropout == without
