"""Attention with a bias that is joined with the mask once computes what transformers' does."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.models import random_distiller, random_llm, random_tokens, t5_configuration
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from mend.models.frozen_llm import pad_left
from mend.models.kernels.shared_bias import NAME, share_position_bias

CPU = torch.device("cpu")


def t5(kind: str = "t5") -> PreTrainedModel:
    config = {**t5_configuration(16).to_dict(), "model_type": kind}
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                parameter.mul_(8)  # a bias that matters
    return model.double()  # no rounding hides a difference


def logits(model: PreTrainedModel, lengths: tuple[int, ...]) -> Tensor:
    """Logits after contexts of these lengths, padded: with their mask if it hides anything."""
    ids, mask = pad_left([random_tokens(length, seed=length) for length in lengths], CPU)
    decoder = torch.tensor([random_tokens(6, seed=40 + row) for row in range(len(lengths))])
    decoder_mask = torch.ones_like(decoder)
    decoder_mask[0, :2] = 0
    masks = {"attention_mask": mask, "decoder_attention_mask": decoder_mask}
    return model(input_ids=ids, decoder_input_ids=decoder, **masks).logits[:, 2:]


@pytest.mark.parametrize("lengths", [(9, 4, 7), (5, 5)])
@pytest.mark.parametrize("kind", ["t5", "mt5"])
@pytest.mark.parametrize("trained", [True, False])
def test_outputs_and_gradients_are_the_same(
    kind: str, lengths: tuple[int, ...], trained: bool
) -> None:
    plain = t5(kind).requires_grad_(trained)
    plain.get_input_embeddings().requires_grad_()
    shared = share_position_bias(copy.deepcopy(plain))
    assert (plain.config._attn_implementation, shared.config._attn_implementation) == ("sdpa", NAME)
    found, expected = logits(shared, lengths), logits(plain, lengths)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    for values in (found, expected):
        values.square().mean().backward()
    pairs = list(zip(shared.parameters(), plain.parameters(), strict=True))
    assert sum(theirs.grad is not None for _, theirs in pairs) == (len(pairs) if trained else 1)
    for ours, theirs in pairs:
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-10, rtol=1e-10)


def test_a_stack_without_masks_is_the_same() -> None:
    plain = t5()
    shared = share_position_bias(copy.deepcopy(plain))
    ids = torch.tensor([random_tokens(6, seed=1)])
    inputs = {"input_ids": ids, "decoder_input_ids": ids}  # causal, without a mask of its own
    torch.testing.assert_close(shared(**inputs).logits, plain(**inputs).logits)


def test_all_layers_share_what_was_joined(monkeypatch) -> None:
    made = []
    where = torch.where
    monkeypatch.setattr(torch, "where", lambda *parts: made.append(parts) or where(*parts))
    model = share_position_bias(t5())
    before = len(made)
    logits(model, (9, 4))
    floats = [parts for parts in made[before:] if isinstance(parts[2], float)]
    stacks = 3  # the encoder, the decoder's own, and the decoder's of the encoder
    assert len(floats) == stacks < model.config.num_layers + 2 * model.config.num_decoder_layers


def test_dropout_is_kept() -> None:
    model = share_position_bias(t5()).train()
    assert not torch.equal(logits(model, (9, 4)), logits(model, (9, 4)))


def test_llms_and_distillers_have_it_and_others_do_not() -> None:
    llm = random_llm("t5")
    assert llm.model.config._attn_implementation == NAME
    for part in ("encoder", "decoder"):
        distiller = random_distiller(llm, architecture="t5", part=part)
        assert distiller.backbone.config._attn_implementation == NAME
    assert random_llm("gpt2").model.config._attn_implementation == "sdpa"


def test_weights_of_attention_can_still_be_had() -> None:
    llm = random_llm("t5")
    with llm.attention_weights():
        assert llm.model.config._attn_implementation == "eager"
    assert llm.model.config._attn_implementation == NAME
