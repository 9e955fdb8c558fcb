"""Trained weights, a teacher's states and checkpoints: used as what they are, or refused."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch
from helpers.damage import ARCHITECTURES, DAMAGES, Damage, Workshop, outcome
from helpers.fuzzing import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mend.errors import UserError
from mend.models.tensor_files import TensorFile, save_tensors

OF_RUNS = [one for one in DAMAGES if not one.kind.startswith(("llm", "distiller"))]
BY_NAME = {f"{one.kind}: {one.name} ({one.job})": one for one in OF_RUNS}


@fuzzed(30)
@given(
    damage=st.sampled_from(OF_RUNS),
    architecture=st.sampled_from(ARCHITECTURES),
    seed=st.integers(0, 2**32),
)
def test_damage_is_one_line_or_changes_nothing(
    shops: dict[str, Workshop], damage: Damage, architecture: str, seed: int
) -> None:
    assert outcome(shops[architecture], damage, seed) == "ok"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("weights: of hypertuning (predict)", 'its method is "hypertuning", and here it is "mend"'),
        ("weights: of prompt-tuning (predict)", 'its method is "prompt-tuning"'),
        ("weights: of another length (predict)", 'its settings is {"length": 3}'),
        ("weights: of another projection (predict)", 'its distiller is .*"linear"'),
        (
            "weights: of other blocks (predict)",
            r"its distiller's layers is \[0\]",
        ),
        ("weights: for another llm (predict)", "its LLM is "),
        ("weights: the llm changed (predict)", "its LLM is "),
        ("weights: the tokenizers changed (finetune)", "its LLM is "),
        ("weights: of the other stage (predict)", 'its stage is "pretrain"'),
        ("weights: of the other stage (finetune)", 'its stage is "finetune"'),
        ("weights: of another partition (predict)", 'its partition is "other"'),
        ("weights: no_tensors (predict)", "does not say what it is of"),
        ("weights: with_nan (predict)", r"distiller\.\S+ is not finite"),
        ("weights: all_integers (predict)", r"distiller\.\S+ is not what was written"),
        ("weights: flip_data (predict)", r"distiller\.\S+ is not "),
        ("weights: an llm's (finetune)", "does not say what it is of"),
        ("teacher: of another llm (taught)", "its LLM is "),
        ("teacher: the llm changed (taught)", "its LLM is "),
        ("teacher: of another order (taught)", "example 0 has other tokens here"),
        ("teacher: of another beta (taught)", "example 0 has other tokens here"),
        ("teacher: of too few (taught)", "states of 3 examples, and 8 are trained on"),
        ("teacher: of none (teacher)", "teacher.examples: input should be greater"),
        ("teacher: empty folder (taught)", "not a folder of a teacher's states, or of no example"),
        ("teacher: one shard twice (taught)", "it is not number 1"),
    ],
)
def test_what_is_of_something_else_is_refused_by_what_it_is(
    shops: dict[str, Workshop], name: str, match: str
) -> None:
    shop, damage = shops["gpt2"], BY_NAME[name]
    shop.restore()
    damage.apply(shop, random.Random(0))
    with pytest.raises(UserError, match=match) as raised:
        shop.do(damage.job)
    assert len(str(raised.value).splitlines()) == 1


def test_weights_without_an_identity_are_refused(shops: dict[str, Workshop]) -> None:
    shop = shops["gpt2"]
    shop.restore()
    path = shop.folder / "finetune/weights.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(UserError, match="does not say what it is of"):
        shop.do("predict")


def test_a_stage_is_asked_for_by_the_workflow_and_by_hand_any_will_do(
    shops: dict[str, Workshop],
) -> None:
    shop = shops["gpt2"]
    shop.restore()
    spec = shop.folder / "predict.json"
    content = json.loads(spec.read_text(encoding="utf-8"))
    content["predict"]["stage"] = None
    spec.write_text(json.dumps(content), encoding="utf-8")
    (shop.folder / "pretrain/weights.safetensors").rename(
        shop.folder / "finetune/weights.safetensors"
    )
    assert shop.do("predict") != shop.results["predict"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    tensors = {"a": torch.ones(3), "b": torch.tensor([1.0, value])}
    with pytest.raises(UserError, match="x: b is not finite, so it is not written"):
        save_tensors(tensors, tmp_path / "x", {})
    assert not (tmp_path / "x").exists()


def test_tensors_of_every_shape_and_type_come_back(tmp_path: Path) -> None:
    tensors = {
        "number": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "half": torch.randn(3, 2).bfloat16(),
        "transposed": torch.randn(3, 2).T,
        "whole": torch.arange(4),
    }
    save_tensors(tensors, tmp_path / "x", {"a": [1]})
    file = TensorFile(tmp_path / "x", "tensors")
    assert file.identity == {"a": [1]}
    assert sorted(file.names) == sorted(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(file[name], tensor)
        assert file.shape(name) == list(tensor.shape)
    first = (tmp_path / "x").read_bytes()
    save_tensors(dict(reversed(tensors.items())), tmp_path / "x", {"a": [1]})
    assert (tmp_path / "x").read_bytes() == first
    with pytest.raises(UserError, match=re.escape("its a is [1], and here it is [2]")):
        file.check({"a": [2]})
