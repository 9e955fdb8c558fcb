"""The distiller: l vectors of the LLM's width, whatever the batch."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.architectures import ARCHITECTURES, enlarge
from helpers.examples import mend_method
from helpers.models import (
    CONFIGURATIONS,
    READING,
    random_distiller,
    random_llm,
    random_tokens,
    t5_configuration,
)
from torch import nn
from transformers import AutoModel

from mend.configuration.specs.reading import LongestContext
from mend.errors import UserError
from mend.models.distiller import DistillerModel, distilling_part
from mend.models.frozen_llm import FrozenLLM, Rows


@pytest.fixture(scope="module")
def llm() -> FrozenLLM:
    return random_llm()


@pytest.mark.parametrize("architecture", sorted(CONFIGURATIONS))
def test_padding_changes_nothing(llm: FrozenLLM, architecture: str) -> None:
    distiller = random_distiller(llm, architecture=architecture)
    demonstrations = [random_tokens(length, seed=length) for length in (4, 17, 9)]
    together = distiller(demonstrations)
    assert together.shape == (3, 3, llm.width)
    for row, one in enumerate(demonstrations):
        torch.testing.assert_close(together[row], distiller([one])[0], atol=1e-5, rtol=1e-4)


def test_after_padding_the_vectors_depend_on_the_padded_length(llm: FrozenLLM) -> None:
    demonstrations = [random_tokens(5, 1)]
    vectors = [
        random_distiller(llm, placeholder_position="after-padding", padded_length=length)(
            demonstrations
        )
        for length in (8, 20)
    ]
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)


def test_equal_widths_have_no_projection(llm: FrozenLLM) -> None:
    assert not list(random_distiller(llm, width=16).projection.parameters())


def test_other_widths_are_projected_through_a_tanh(llm: FrozenLLM) -> None:
    narrow = random_distiller(llm, width=8)
    vectors = narrow([random_tokens(5, 1)])
    assert vectors.shape[-1] == llm.width
    assert vectors.abs().max() <= 1
    linear = random_distiller(llm, width=8, projection="linear")
    assert [type(layer).__name__ for layer in linear.projection] == ["Linear"]


@pytest.mark.parametrize("architecture", [*sorted(CONFIGURATIONS), "t5"])
@pytest.mark.parametrize("width", [16, 8])
def test_vectors_that_are_added_start_as_the_last_tokens(architecture: str, width: int) -> None:
    """So that an untrained distiller is read as the end of the demonstrations is."""
    llm = random_llm(architecture)
    method = mend_method(llm, width, length=6, vector_base="last-tokens")
    demonstrations = [random_tokens(15, 1), random_tokens(4, 2), []]
    texts = [demonstrations[0][-6:], [*demonstrations[1][-2:], *demonstrations[1]]]
    context = method.contexts(llm, demonstrations)
    words = llm.embedding(torch.tensor(texts)).float()
    torch.testing.assert_close(context.vectors[:2], words)
    assert context.vectors[2].unique(dim=0).shape[0] == 1  # the end of a text, six times

    rows = Rows([0, 1], [[3], []], [random_tokens(5, 3), random_tokens(2, 4)])
    of_vectors, of_tokens = llm.states(context, rows), llm.states(llm.token_context(texts), rows)
    torch.testing.assert_close(of_vectors, of_tokens, atol=1e-5, rtol=1e-4)


def test_vectors_that_are_added_are_trained(llm: FrozenLLM) -> None:
    method = mend_method(llm, length=6, vector_base="last-tokens")
    method.contexts(llm, [random_tokens(9, 1)]).vectors.square().sum().backward()
    assert method.distiller.projection[0].weight.grad.abs().max() > 0


def test_placeholders_start_as_words(llm: FrozenLLM) -> None:
    distiller = random_distiller(llm)
    words = distiller.backbone.get_input_embeddings().weight
    for placeholder in distiller.placeholders:
        assert (words == placeholder).all(1).any()


def test_vectors_depend_on_the_demonstrations(llm: FrozenLLM) -> None:
    vectors = random_distiller(llm)([random_tokens(5, 1), random_tokens(5, 2)])
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)


def test_demonstrations_and_placeholders_fit_its_positions(llm: FrozenLLM) -> None:
    distiller = random_distiller(llm, length=6)  # of 96 positions
    limits = {40: 40, 90: 90, 95: 90}
    for asked, limit in limits.items():
        longest = LongestContext(llm=1, distiller=asked)
        reading = READING.model_copy(update={"longest_context": longest})
        assert distiller.longest_context(reading) == limit
    assert distiller([random_tokens(90, 1)]).shape == (1, 6, llm.width)


class Skipped(nn.Module):
    """A block that hands on what it reads."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.attention_type = getattr(block, "attention_type", None)  # some versions ask

    def forward(self, states: torch.Tensor, *others, **more) -> torch.Tensor | tuple:
        made = self.block(states, *others, **more)
        return states if isinstance(made, torch.Tensor) else (states, *made[1:])


def base_model(name: str, layers: int) -> nn.Module:
    """Return a random model without a head, or the encoder of one, of so many blocks."""
    torch.manual_seed(1)
    if name == "t5":
        config = t5_configuration(16)
        config.num_layers = layers
        model = AutoModel.from_config(config).get_encoder()
    else:
        config = ARCHITECTURES[name].configured()
        config.num_hidden_layers = layers
        if name == "gemma 3":
            config.layer_types = [
                f"{kind}_attention" for kind in ("sliding", "sliding", "full", "sliding")
            ]
        if name == "gpt-neo":
            config.attention_layers = ["global", "global", "local", "global"]
        model = AutoModel.from_config(config)
    enlarge(model, 3)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("gpt2", "h"),
        ("gpt-neo", "h"),
        ("opt", "decoder.layers"),
        ("llama 3", "layers"),
        ("gemma 3", "layers"),
        ("mixtral", "layers"),
        ("mpt", "blocks"),
        ("t5", "block"),
    ],
)
def test_chosen_blocks_compute_what_the_whole_model_does_without_the_others(
    name: str, stack: str
) -> None:
    whole = base_model(name, layers=4)
    words = torch.tensor([random_tokens(30, seed=1)])
    chosen = distilling_part(copy.deepcopy(whole), None, layers=[0, 2])
    all_of_it = whole(input_ids=words).last_hidden_state
    blocks = whole.get_submodule(stack)
    for index in (1, 3):
        blocks[index] = Skipped(blocks[index])
    options = {} if name == "t5" else {"use_cache": False}
    expected = whole(input_ids=words, **options).last_hidden_state
    found = chosen(input_ids=words, **options).last_hidden_state
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, all_of_it, atol=1e-2)
    assert len(chosen.get_submodule(stack)) == chosen.config.num_hidden_layers == 2
    if name == "gemma 3":
        assert chosen.config.layer_types == ["sliding_attention", "full_attention"]
    vectors = DistillerModel(chosen, 3, 16)([random_tokens(30, seed=1)])
    assert vectors.shape == (1, 3, 16)


def test_blocks_that_a_model_has_not_are_refused() -> None:
    with pytest.raises(UserError, match=r"layers: \[0, 4\]: the distiller has 4 blocks, 0 to 3"):
        distilling_part(base_model("llama 3", layers=4), None, layers=[0, 4])
    whole = AutoModel.from_config(t5_configuration(16))
    with pytest.raises(UserError, match="no blocks can be chosen"):
        distilling_part(whole, "decoder", layers=[0])
    with pytest.raises(UserError, match="block 0 of an encoder .*; begin with it"):
        distilling_part(whole, "encoder", layers=[1])
