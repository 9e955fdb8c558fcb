"""The frozen LLM: padding and caching must change nothing."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, random_llm, random_tokens
from transformers import GPT2Config, GPTNeoConfig, MistralConfig, Qwen2Config

from mend.configuration.specs.run import LLMSource
from mend.errors import UserError
from mend.models.frozen_llm import max_positions, pad_right
from mend.models.loading import load_llm

ARCHITECTURES = sorted(CONFIGURATIONS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_predicting_states_equal_one_plain_forward_pass(architecture: str) -> None:
    llm = random_llm(architecture)
    contexts = [random_tokens(length, seed=length) for length in (5, 12, 1)]
    texts = [random_tokens(length, seed=50 + length) for length in (7, 3, 6)]
    tokens, _ = pad_right(texts, llm.device)
    states = llm.predicting_states(llm.prefill(llm.token_context(contexts)), tokens)
    for row, (context, text) in enumerate(zip(contexts, texts, strict=True)):
        plain = llm.model(torch.tensor([context + text])).logits[0]
        expected = plain[len(context) - 1 : -1]
        found = llm.logits(states[row, : len(text)])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_reading_can_be_selected_many_times() -> None:
    llm = random_llm()
    prefilled = llm.prefill(llm.token_context([random_tokens(6, 1), random_tokens(9, 2)]))
    tokens, _ = pad_right([random_tokens(4, 3)], llm.device)
    first = llm.predicting_states(prefilled.select(torch.tensor([1])), tokens)
    again = llm.predicting_states(prefilled.select(torch.tensor([1])), tokens)
    other = llm.predicting_states(prefilled.select(torch.tensor([0])), tokens)
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("configuration", "positions"),
    [
        (MistralConfig(max_position_embeddings=96, sliding_window=40), 40),
        (MistralConfig(max_position_embeddings=96, sliding_window=None), 96),
        (Qwen2Config(max_position_embeddings=96, sliding_window=40, use_sliding_window=True), 40),
        (Qwen2Config(max_position_embeddings=96, sliding_window=40), 96),
        (GPTNeoConfig(max_position_embeddings=96, window_size=40), 40),
        (GPT2Config(n_positions=96), 96),
    ],
)
def test_no_more_is_read_than_every_layer_sees(configuration, positions: int) -> None:
    assert max_positions(configuration) == positions


def test_an_empty_context_reads_the_query_alone() -> None:
    llm = random_llm()
    texts = [random_tokens(5, 1), random_tokens(3, 2)]
    prefilled = llm.extend(llm.prefill(llm.token_context([[], []])), texts)
    for row, text in enumerate(texts):
        plain = llm.model(torch.tensor([text])).logits[0, -1]
        torch.testing.assert_close(
            llm.logits(prefilled.last_state)[row], plain, atol=1e-4, rtol=1e-4
        )


def test_vectors_that_are_word_embeddings_read_as_the_words() -> None:
    llm = random_llm()
    context = random_tokens(6, 4)
    words = llm.prefill(llm.token_context([context]))
    vectors = llm.prefill(llm.vector_context(llm.embedding(torch.tensor([context]))))
    torch.testing.assert_close(words.last_state, vectors.last_state)


def test_no_weight_of_the_llm_is_trained() -> None:
    llm = random_llm()
    assert not any(parameter.requires_grad for parameter in llm.model.parameters())
    assert not llm.model.training


def test_an_unknown_model_is_refused_by_name(tmp_path) -> None:
    spec = LLMSource(
        name="x", path=str(tmp_path / "nowhere"), dtype="float32", local_files_only=True
    )
    with pytest.raises(UserError, match="nowhere"):
        load_llm(spec)
