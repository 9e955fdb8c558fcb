"""Fused activations compute what the written-out ones do, forwards and backwards."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.models import ENCODER_DECODERS, random_llm, random_tokens, t5_configuration
from transformers import AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel
from transformers.activations import NewGELUActivation

from mend.models.kernels.activations import fuse_activations


def written_out(model: torch.nn.Module) -> int:
    return sum(isinstance(module, NewGELUActivation) for module in model.modules())


@pytest.mark.parametrize("architecture", ["gpt2", "t5-v1.1"])
def test_outputs_and_gradients_are_those_without_the_kernel(architecture: str, monkeypatch) -> None:
    torch.manual_seed(0)
    ids = torch.tensor([random_tokens(9, 1)])
    if architecture in ENCODER_DECODERS:
        model = AutoModelForSeq2SeqLM.from_config(t5_configuration(16, architecture)).eval()
        inputs = {"input_ids": ids, "decoder_input_ids": ids[:, :4]}
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2)).eval()
        inputs = {"input_ids": ids}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # far from zero, where every activation function is a line
    model.double()  # no rounding hides a difference
    fused = fuse_activations(copy.deepcopy(model))
    monkeypatch.setenv("MEND_KERNELS", "0")
    plain = fuse_activations(copy.deepcopy(model))
    assert written_out(plain) >= 2
    assert written_out(fused) == 0
    assert fused.state_dict().keys() == plain.state_dict().keys()
    logits = {}
    for name, one in (("plain", plain), ("fused", fused)):
        logits[name] = one(**inputs).logits
        logits[name].square().mean().backward()
    torch.testing.assert_close(logits["fused"], logits["plain"], atol=1e-6, rtol=1e-6)
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-6)


def test_every_llm_is_fused() -> None:
    assert written_out(random_llm("gpt2").model) == 0
