"""Reading for the sake of later tokens: the same numbers and gradients, and less done."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, random_distiller, random_llm, random_tokens

from mend.models.frozen_llm import pad_left
from mend.models.kernels.partial_prefill import partial_prefill


def vectors_in_one_pass(distiller, demonstrations) -> torch.Tensor:
    """Distil as the paper writes it: demonstrations and placeholders in one forward pass."""
    ids, mask = pad_left(demonstrations, torch.device("cpu"))
    placeholders = distiller.placeholders.expand(len(ids), -1, -1)
    embeddings = torch.cat([distiller.backbone.get_input_embeddings()(ids), placeholders], dim=1)
    mask = torch.cat([mask, mask.new_ones(len(ids), distiller.length)], dim=1)
    extra = {}
    if distiller._takes_positions:
        extra["position_ids"] = mask.cumsum(1).sub(1).clamp(min=0)
    states = distiller.backbone(
        inputs_embeds=embeddings, attention_mask=mask, use_cache=False, **extra
    ).last_hidden_state
    return distiller.projection(states[:, -distiller.length :])


@pytest.mark.parametrize("architecture", sorted(CONFIGURATIONS))
def test_vectors_and_gradients_are_those_of_one_pass(architecture: str) -> None:
    distiller = random_distiller(random_llm(), width=8, architecture=architecture)
    demonstrations = [random_tokens(length, seed=length) for length in (7, 12)]
    found = {}
    for name, distil in (
        ("ours", distiller),
        ("one pass", lambda ids: vectors_in_one_pass(distiller, ids)),
    ):
        distiller.zero_grad()
        vectors = distil(demonstrations)
        vectors.square().sum().backward()
        found[name] = [vectors.detach()] + [
            parameter.grad.clone()
            for parameter in distiller.parameters()
            if parameter.grad is not None
        ]
    assert len(found["ours"]) == len(found["one pass"]) > 10
    for ours, plain in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", sorted(CONFIGURATIONS))
def test_the_last_layer_does_no_more_than_keys_and_values(architecture: str) -> None:
    llm = random_llm(architecture)
    ids = torch.tensor([random_tokens(9, 1)])
    embeddings, mask = llm.embedding(ids), torch.ones_like(ids)
    used = []
    for name, module in llm.base.named_modules():
        if isinstance(module, (torch.nn.Linear, type(llm.base))) or "Conv1D" in str(type(module)):
            module.register_forward_hook(lambda *_, name=name: used.append(name))
    cache = partial_prefill(llm.base, embeddings, mask)
    early = set(used)
    used.clear()
    whole = llm.base(inputs_embeds=embeddings, attention_mask=mask, use_cache=True).past_key_values
    left_out = set(used) - early
    assert len(left_out) >= 3  # attention's output, and two matrices of the feed-forward part
    assert len(cache.layers) == len(whole.layers) == 2
    for ours, plain in zip(cache.layers, whole.layers, strict=True):
        torch.testing.assert_close(ours.keys, plain.keys)
        torch.testing.assert_close(ours.values, plain.values)


def test_what_was_read_can_be_gone_on_from() -> None:
    llm = random_llm()
    ids = torch.tensor([random_tokens(9, 1)])
    cache = partial_prefill(llm.base, llm.embedding(ids[:, :6]), torch.ones(1, 6))
    after = llm.base(
        inputs_embeds=llm.embedding(ids[:, 6:]), past_key_values=cache, use_cache=True
    ).last_hidden_state
    plain = llm.base(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(after, plain[:, 6:], atol=1e-5, rtol=1e-4)
