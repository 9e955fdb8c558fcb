"""The distiller: l vectors of the LLM's width, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, READING, random_distiller, random_llm, random_tokens

from mend.configuration.specs.reading import LongestContext
from mend.models.frozen_llm import FrozenLLM


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
