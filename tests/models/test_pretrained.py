"""Models that others made: what is wrong with a folder is one line, and nothing of it is run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from helpers.damage import (
    ARCHITECTURES,
    DAMAGES,
    Damage,
    Workshop,
    cut,
    fewer_layers,
    more_layers,
    of_another_architecture,
    outcome,
    pickled,
    remote_code,
    with_nan,
)
from helpers.fuzzing import fuzzed
from helpers.models import random_llm
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mend.configuration.specs.run import LLMSource
from mend.errors import UserError
from mend.models import pretrained
from mend.models.loading import load_llm

OF_MODELS = [damage for damage in DAMAGES if damage.kind.startswith(("llm", "distiller"))]


@fuzzed(60)
@given(
    damage=st.sampled_from(OF_MODELS),
    architecture=st.sampled_from(ARCHITECTURES),
    seed=st.integers(0, 2**32),
)
def test_a_damaged_model_is_one_line_or_does_what_it_did(
    shops: dict[str, Workshop], damage: Damage, architecture: str, seed: int
) -> None:
    assert outcome(shops[architecture], damage, seed) == "ok"


def saved(folder: Path, architecture: str = "llama") -> Path:
    llm = random_llm(architecture)
    llm.model.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path):
    return load_llm(LLMSource(name="x", path=str(folder), local_files_only=True))


def test_tensors_that_are_missing_too_many_or_of_another_shape_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "llm")
    whole = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"

    def refused(tensors: dict, match: str) -> None:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=match):
            load(folder)

    refused({key: one for key, one in whole.items() if key != name}, f"no tensor for {name}$")
    refused(whole | {"model.layers.2.x": torch.ones(2)}, r"no place for: model\.layers\.2\.x$")
    refused(whole | {name: torch.ones(3, 3)}, f"another shape .*: {name}$")
    refused(whole | {name: whole[name] > 0}, f"not floating-point numbers: {name}$")
    nan = whole[name].clone()
    nan[1, 2] = torch.nan
    refused(whole | {name: nan}, f"{name} is not finite$")
    nothing_left = "no tensor for .*, .*, .* and [0-9]+ more$"
    refused({"lm_head.weight": whole["lm_head.weight"]}, nothing_left)


@pytest.mark.parametrize("change", [more_layers, fewer_layers, of_another_architecture])
def test_a_configuration_that_is_not_of_the_weights_is_refused(change, tmp_path: Path) -> None:
    folder = saved(tmp_path / "llm")
    change(folder / "config.json", random.Random(0))
    with pytest.raises(UserError, match="its weights: (no tensor for|tensors that) "):
        load(folder)


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "gpt-neox", "t5", "t5-v1.1"])
def test_tied_heads_and_base_models_lack_nothing(architecture: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "llm", architecture)
    llm = load(folder)
    kind = AutoModelForSeq2SeqLM if llm.model.config.is_encoder_decoder else AutoModelForCausalLM
    plain = kind.from_pretrained(folder)
    for name, tensor in plain.named_parameters():
        assert torch.equal(llm.model.get_parameter(name), tensor)


def test_more_tokens_than_embeddings_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "llm")
    model = random_llm("llama").model
    model.resize_token_embeddings(40)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="embeddings of 40 tokens, and its tokenizer knows 61"):
        load(folder)


@pytest.mark.parametrize("malicious", [True, False])
def test_pickles_are_never_read(malicious: bool, shops: dict[str, Workshop]) -> None:
    shop = shops["gpt2"]
    shop.restore()
    pickled(malicious)(shop, shop.folder / "llm", random.Random(0))
    with pytest.raises(UserError, match=r"pickled weights \(\*\.bin\) alone, which are not read"):
        shop.do("zero-shot")
    assert not shop.marker.exists()


@pytest.mark.parametrize("what", ["model", "tokenizer"])
@pytest.mark.parametrize("known", [True, False])
def test_a_folders_own_code_is_never_run(
    what: str, known: bool, shops: dict[str, Workshop]
) -> None:
    shop = shops["gpt2"]
    shop.restore()
    remote_code(what, known)(shop, shop.folder / "llm", random.Random(0))
    if known:  # transformers has an architecture and a tokenizer of these names itself
        assert shop.do("zero-shot") == shop.results["zero-shot"]
    elif what == "model":
        with pytest.raises(UserError, match="cannot load the LLM .* config.json: .*custom code"):
            shop.do("zero-shot")
    assert not shop.marker.exists()


def test_memory_that_runs_out_is_no_damage(tmp_path: Path, monkeypatch) -> None:
    folder = saved(tmp_path / "llm")

    def runs_out(tensors):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pretrained, "not_finite", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        load(folder)


def test_a_distillers_broken_tokenizer_does_not_count_as_none(
    shops: dict[str, Workshop],
) -> None:
    shop = shops["gpt2"]
    shop.restore()
    tokenizer = shop.folder / "distiller/tokenizer.json"
    cut(tokenizer, random.Random(0))
    with pytest.raises(UserError, match="cannot load the distiller .*: its tokenizer: "):
        shop.do("pretrain")
    for path in (tokenizer, tokenizer.with_name("tokenizer_config.json")):
        path.unlink()
    assert shop.do("pretrain") == shop.results["pretrain"]


def test_a_distiller_needs_no_head_of_its_file(shops: dict[str, Workshop]) -> None:
    shop = shops["llama"]
    shop.restore()
    path = shop.folder / "distiller/model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path, {"format": "pt"})
    assert shop.do("pretrain") == shop.results["pretrain"]
    with_nan(path, random.Random(0))
    with pytest.raises(UserError, match="the distiller .* is not finite"):
        shop.do("pretrain")


def test_endless_layers_are_refused_before_they_are_built(tmp_path: Path) -> None:
    folder = saved(tmp_path / "llm")
    config = folder / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(content | {"num_hidden_layers": 10**11}), encoding="utf-8")
    with pytest.raises(UserError, match="num_hidden_layers is 100000000000"):
        load(folder)


def test_endless_sizes_are_refused_before_they_are_filled(tmp_path: Path) -> None:
    folder = saved(tmp_path / "llm", "t5")
    config = folder / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(content | {"num_heads": 10**9}), encoding="utf-8")
    with pytest.raises(UserError, match="num_heads is 1000000000"):
        load(folder)


@pytest.mark.parametrize("value", [-1, 2, float("nan")])
def test_a_dropout_that_is_no_share_is_refused_before_a_training_meets_it(
    tmp_path: Path, value: float
) -> None:
    folder = saved(tmp_path / "llm")
    config = folder / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(content | {"attention_dropout": value}), encoding="utf-8")
    with pytest.raises(UserError, match=f"config.json: attention_dropout is {value}$"):
        load(folder)
