"""The attention of any LLM: of a text or a query after a context."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, ENCODER_DECODERS, random_llm, random_tokens
from transformers import PreTrainedModel

from mend.models.loading import frozen_llm

CONTEXT, QUERY = random_tokens(9, 1), random_tokens(3, 3)


def face(name: str):
    if name == "query-in-encoder":
        llm = random_llm("t5")
        return frozen_llm(llm.model, llm.tokenizer, query_in="encoder")
    return random_llm(name)


FACES = [*CONFIGURATIONS, *ENCODER_DECODERS, "query-in-encoder"]


@pytest.mark.parametrize("name", FACES)
def test_weights_are_of_the_context_and_of_what_came_after_it(name: str) -> None:
    llm = face(name)
    read = llm.query_attentions(llm.token_context([CONTEXT]), QUERY)
    assert read.to_context.shape == (2, 4, 1, len(CONTEXT))
    assert read.to_tokens.shape[-1] - len(QUERY) in (0, 1)  # a start token


@pytest.mark.parametrize("name", FACES)
def test_vectors_of_words_are_attended_to_as_the_words(name: str) -> None:
    llm = face(name)
    words = llm.query_attentions(llm.token_context([CONTEXT]), QUERY)
    vectors = llm.vector_context(llm.embedding(torch.tensor([CONTEXT])))
    same = llm.query_attentions(vectors, QUERY)
    torch.testing.assert_close(words.to_context, same.to_context)
    torch.testing.assert_close(words.to_tokens, same.to_tokens)


@pytest.mark.parametrize("name", FACES)
def test_a_prefix_is_no_part_of_the_context(name: str) -> None:
    llm = face(name)
    plain = llm.query_attentions(llm.token_context([[3, *CONTEXT]]), QUERY)
    llm.prefix = [3]
    found = llm.query_attentions(llm.token_context([CONTEXT]), QUERY)
    torch.testing.assert_close(found.to_context, plain.to_context[..., 1:])
    torch.testing.assert_close(found.to_tokens, plain.to_tokens)


@pytest.mark.parametrize("name", FACES)
def test_attention_sums_to_one(name: str) -> None:
    llm = face(name)
    for ask in (llm.query_attentions, llm.text_attentions):
        read = ask(llm.token_context([CONTEXT]), QUERY)
        sums = [part.sum(-1) for part in (read.to_context, read.to_tokens)]
        two = name in ENCODER_DECODERS or (
            name == "query-in-encoder" and ask == llm.text_attentions
        )
        for total in sums if two else [sums[0] + sums[1]]:
            torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_looking_at_attention_leaves_the_llm_as_it_was(name: str) -> None:
    llm = face(name)
    parts = [part for part in llm.model.modules() if isinstance(part, PreTrainedModel)]
    usual = [part.config._attn_implementation for part in parts]
    assert "eager" not in usual or not llm.model._supports_sdpa
    text = llm.text_attentions(llm.token_context([CONTEXT]), QUERY)
    query = llm.query_attentions(llm.token_context([CONTEXT]), QUERY)
    assert [part.config._attn_implementation for part in parts] == usual
    # What predicts the answer is the query's last token.
    torch.testing.assert_close(query.to_context, text.to_context[:, :, -1:])
    torch.testing.assert_close(query.to_tokens, text.to_tokens[:, :, -1:])
