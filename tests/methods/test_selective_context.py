"""Selective context: the tokens that stay are those that the LLM expects the least."""

from __future__ import annotations

import pytest
import torch
from helpers.models import ENCODER_DECODERS, build, random_llm, random_tokens

from mend.methods.selective_context import self_information
from mend.models.loading import frozen_llm

SHOWN = [random_tokens(12, 1), random_tokens(3, 2), []]


@torch.no_grad()
def by_hand(llm, tokens: list[int]) -> list[float]:
    """Return what each token tells, by a pass of the model for each."""
    told = []
    for place, token in enumerate(tokens):
        if llm.model.config.is_encoder_decoder:
            end, start = torch.tensor([[1]]), torch.tensor([[0, *tokens[:place]]])
            logits = llm.model(input_ids=end, decoder_input_ids=start).logits
        else:
            before = [*llm.prefix, *tokens[:place]]
            if not before:
                told.append(float("inf"))
                continue
            logits = llm.model(torch.tensor([before])).logits
        told.append(-float(logits[0, -1].log_softmax(-1)[token]))
    return told


@pytest.mark.parametrize("prefix", [[], [5]])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", *ENCODER_DECODERS[:1]])
def test_the_least_expected_tokens_stay(architecture: str, prefix: list[int]) -> None:
    llm = random_llm(architecture)
    if prefix and architecture != "t5":
        llm = frozen_llm(llm.model, llm.tokenizer, prefix=prefix)
    expected = [by_hand(llm, tokens) for tokens in SHOWN]
    for found, right in zip(self_information(llm, SHOWN), expected, strict=True):
        assert found == pytest.approx(right, abs=1e-4)
    contexts = build(llm, "selective-context", keep=5).contexts(llm, SHOWN)
    assert contexts.lengths == [5, 3, 0]
    least = sorted(range(12), key=expected[0].__getitem__)[-5:]
    assert contexts.tokens[0] == [SHOWN[0][place] for place in sorted(least)]
    assert contexts.tokens[1] == SHOWN[1]
