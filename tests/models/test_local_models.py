"""Little models from local tasks' own text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mend.configuration.specs.local_models import LocalModelsSpec, ModelSize
from mend.errors import UserError
from mend.models.local_models import train_local_models

SPEC = LocalModelsSpec(
    vocabulary=300,
    positions=32,
    llm=ModelSize(layers=2, width=16, heads=2),
    distiller=ModelSize(layers=1, width=16, heads=2),
    steps=3,
    batch_size=2,
    learning_rate=1e-3,
    seed=0,
    train_tasks=["weather"],
)


def write_rows(folder: Path, count: int) -> None:
    rows = [
        {"task": "weather", "input": f"day {n}: ☂", "output": "rain", "options": ["rain", "sun"]}
        for n in range(count)
    ]
    path = folder / "data/weather/weather_16384_100_train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_both_models_load_and_share_a_lossless_tokenizer(tmp_path: Path) -> None:
    write_rows(tmp_path, 40)
    train_local_models(SPEC, tmp_path, tmp_path / "models")
    for name, layers in (("gpt2", 2), ("gpt2-small", 1)):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / name)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "models" / name)
        assert model.config.n_layer == layers
        assert model.config.vocab_size == len(tokenizer)
        text = "unseen: żółw ☃ 7"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    with pytest.raises(UserError, match="less than one window"):
        train_local_models(SPEC, tmp_path, tmp_path / "models")
