"""Prefill of keys and values alone: the same numbers and gradients, and less done."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, random_distiller, random_llm, random_tokens
from torch.utils.flop_counter import FlopCounterMode

from mend.models.frozen_llm import FrozenLLM
from mend.models.kernels.partial_prefill import partial_prefill


def vectors_and_gradients(architecture: str) -> tuple[list[torch.Tensor], int]:
    """Distil two sequences; return the vectors, all gradients and the operations it took."""
    distiller = random_distiller(random_llm(), width=8, architecture=architecture)
    with FlopCounterMode(display=False) as counter:
        vectors = distiller([random_tokens(length, seed=length) for length in (7, 12)])
        vectors.square().sum().backward()
    gradients = [value.grad for value in distiller.parameters() if value.grad is not None]
    return [vectors.detach(), *gradients], counter.get_total_flops()


def prediction(llm: FrozenLLM) -> tuple[torch.Tensor, int]:
    """Return the states that predict tokens after two contexts, and the operations it took."""
    contexts = [random_tokens(6, seed=1), random_tokens(9, seed=2)]
    tokens = torch.tensor([random_tokens(4, seed) for seed in (3, 4)])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        states = llm.predicting_states(llm.prefill(llm.token_context(contexts)), tokens)
    return states, counter.get_total_flops()


@pytest.mark.parametrize("architecture", sorted(CONFIGURATIONS))
def test_vectors_and_gradients_are_those_of_one_pass(architecture: str, monkeypatch) -> None:
    found, operations = vectors_and_gradients(architecture)
    monkeypatch.setenv("MEND_KERNELS", "0")
    expected, more = vectors_and_gradients(architecture)
    assert len(found) == len(expected) > 10
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)
    assert operations < 0.9 * more


@pytest.mark.parametrize("architecture", sorted(CONFIGURATIONS))
def test_states_after_a_context_are_those_of_a_whole_prefill(
    architecture: str, monkeypatch
) -> None:
    llm = random_llm(architecture)
    found, operations = prediction(llm)
    monkeypatch.setenv("MEND_KERNELS", "0")
    expected, more = prediction(llm)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert operations < 0.9 * more


def test_the_cache_can_be_extended() -> None:
    llm = random_llm()
    ids = torch.tensor([random_tokens(9, 1)])
    cache = partial_prefill(llm.base, llm.embedding(ids[:, :6]), torch.ones(1, 6))
    after = llm.base(
        inputs_embeds=llm.embedding(ids[:, 6:]), past_key_values=cache, use_cache=True
    ).last_hidden_state
    plain = llm.base(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(after, plain[:, 6:], atol=1e-5, rtol=1e-4)
