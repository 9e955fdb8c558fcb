"""Keys and values of an encoded context, computed once: the same numbers, and less done."""

from __future__ import annotations

import pytest
import torch
from helpers.models import ENCODER_DECODERS, random_llm, random_tokens
from torch.utils.flop_counter import FlopCounterMode

from mend.models.frozen_llm import Rows


def prediction(architecture: str) -> tuple[list[torch.Tensor], int]:
    """Return states after a context that three queries share, its gradient, and the operations."""
    llm = random_llm(architecture)
    embeddings = llm.embedding(torch.tensor([random_tokens(30, seed=1)])).requires_grad_()
    texts = [random_tokens(4, seed) for seed in (2, 3, 4)]
    with FlopCounterMode(display=False) as counter:
        prefilled = llm.prefill(llm.vector_context(embeddings))
        states = llm.states_after(prefilled, Rows([0, 0, 0], [[]] * 3, texts))
        states.square().sum().backward()
    return [states.detach(), embeddings.grad], counter.get_total_flops()


@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_states_and_gradients_are_those_without_the_kernel(architecture: str, monkeypatch) -> None:
    found, operations = prediction(architecture)
    monkeypatch.setenv("MEND_KERNELS", "0")
    expected, more = prediction(architecture)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)
    assert operations < 0.9 * more
