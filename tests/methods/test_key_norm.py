"""Key norm: what is kept of keys and values, and that scoring, writing and training know it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.architectures import TOKEN_ITEMS
from helpers.jobs import prediction, specification
from helpers.models import build, random_llm, random_tokens

from mend.configuration.specs.run import MethodSource
from mend.evaluation.predict import run_prediction
from mend.evaluation.scoring import score_items
from mend.models.contexts import KeyValueContexts
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.generation import generate
from mend.models.loading import frozen_llm

SHOWN = [random_tokens(9, 1), random_tokens(4, 2)]


def kept_by_hand(
    llm: FrozenLLM, tokens: list[int], keep: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each layer's keys and values that stay, a head and a token at a time."""
    cache = llm.model(torch.tensor([tokens]), use_cache=True).past_key_values
    layers = []
    for layer in cache.layers:
        keys, values = [], []
        for of_head, values_of_head in zip(layer.keys[0], layer.values[0], strict=True):
            norms = [float(key.square().sum().sqrt()) for key in of_head]
            smallest = sorted(range(len(tokens)), key=norms.__getitem__)[:keep]
            keys.append(torch.stack([of_head[place] for place in sorted(smallest)]))
            values.append(torch.stack([values_of_head[place] for place in sorted(smallest)]))
        layers.append((torch.stack(keys), torch.stack(values)))
    return layers


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_each_head_keeps_the_smallest_keys(architecture: str) -> None:
    llm = random_llm(architecture)
    contexts = build(llm, "key-norm", keep=5).contexts(llm, SHOWN)
    assert contexts.lengths == [5, 4]
    assert contexts.positions == [9, 4]
    for number, tokens in enumerate(SHOWN):
        alone = contexts.select([number])
        for layer, (keys, values) in enumerate(kept_by_hand(llm, tokens, 5)):
            torch.testing.assert_close(alone.keys[layer][0], keys, atol=1e-5, rtol=0)
            torch.testing.assert_close(alone.values[layer][0], values, atol=1e-5, rtol=0)
        kept = [*alone.keys, *alone.values]
        assert contexts.nbytes[number] == sum(4 * part.numel() for part in kept)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_all_that_is_kept_is_vanilla_icl(architecture: str) -> None:
    llm = random_llm(architecture)
    found = score_items(llm, build(llm, "key-norm", keep=1000), TOKEN_ITEMS)
    expected = score_items(llm, build(llm, "vanilla-icl"), TOKEN_ITEMS)
    for mine, right in zip(found, expected, strict=True):
        assert mine == pytest.approx(right, abs=1e-4)
    fewer = score_items(llm, build(llm, "key-norm", keep=3), TOKEN_ITEMS)
    assert fewer != found


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_text_goes_on_at_the_positions_of_the_whole(architecture: str) -> None:
    llm = random_llm(architecture)
    contexts = build(llm, "key-norm", keep=5).contexts(llm, SHOWN)
    queries = [random_tokens(3, 3), random_tokens(1, 4)]
    found = generate(llm, contexts, [0, 1], queries, do_sample=False, max_new_tokens=5)
    for number, (query, tokens) in enumerate(zip(queries, found, strict=True)):
        assert tokens
        for step, token in enumerate(tokens):
            rows = Rows([number], [[*query, *tokens[:step]]], [[0]])
            assert int(llm.logits(llm.states(contexts, rows))[0, 0].argmax()) == token


@torch.no_grad()
def test_the_prefix_stays_besides_what_is_kept() -> None:
    llm = random_llm()
    llm = frozen_llm(llm.model, llm.tokenizer, prefix=[3, 4])
    whole = llm.key_values(llm.token_context(SHOWN))
    contexts = build(llm, "key-norm", keep=5).contexts(llm, SHOWN)
    assert contexts.lengths == [7, 6]
    for layer, keys in enumerate(whole.keys):
        torch.testing.assert_close(contexts.keys[layer][0, :, :2], keys[0, :, :2])
        torch.testing.assert_close(contexts.keys[layer][1, :, 1:], keys[1, :, -6:])


def test_keys_and_values_can_be_trained() -> None:
    llm = random_llm()
    whole = llm.key_values(llm.token_context(SHOWN))
    keys = [layer.detach().clone().requires_grad_() for layer in whole.keys]
    rows = Rows([0, 1], [random_tokens(3, 3), random_tokens(2, 4)], [[5, 6], [5]])

    def loss(keys: list[torch.Tensor]) -> torch.Tensor:
        contexts = KeyValueContexts(keys, whole.values, whole.lengths, whole.positions, 0)
        return llm.logits(llm.states(contexts, rows))[:, 0].log_softmax(-1)[:, 5].sum()

    loss(keys).backward()
    assert all(layer.grad.abs().sum() > 0 for layer in keys)
    with torch.no_grad():
        change = torch.zeros_like(keys[0])
        change[0, 1, -1, 2] = 1e-2
        sides = [loss([keys[0] + sign * change, *keys[1:]]) for sign in (1, -1)]
    slope = float(sides[0] - sides[1]) / 2e-2
    assert slope == pytest.approx(float(keys[0].grad[0, 1, -1, 2]), rel=0.05, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("key-norm", {"keep": 6}), ("snapkv", {"keep": 6}), ("cartridge", {"length": 6, "steps": 2})],
)
def test_a_job_predicts_with_keys_and_values(data: Path, tmp_path, name: str, settings) -> None:
    spec = specification(tmp_path, "gpt2", "mend", stage="finetune", losses={"pred": 1.0})
    method = MethodSource(name=name, settings=settings)
    spec = prediction(spec.model_copy(update={"method": method}))
    run_prediction(spec, data / "test.parquet", data / "tasks", tmp_path / "found.parquet", None)
    found = pyarrow.parquet.read_table(tmp_path / "found.parquet").to_pylist()
    assert {row["context_length"] for row in found} == {6}
    assert len({tuple(row["scores"]) for row in found}) > 1
