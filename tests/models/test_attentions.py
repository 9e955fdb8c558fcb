"""The attention of any LLM: of a text or a query after a context, in a batch or alone."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, ENCODER_DECODERS, random_llm, random_tokens

from mend.models.loading import frozen_llm

CONTEXTS = [random_tokens(9, 1), random_tokens(4, 2)]
QUERIES = [random_tokens(3, 3), random_tokens(5, 4)]


def face(name: str):
    if name == "query-in-encoder":
        llm = random_llm("t5")
        return frozen_llm(llm.model, llm.tokenizer, query_in="encoder")
    return random_llm(name)


FACES = [*CONFIGURATIONS, *ENCODER_DECODERS, "query-in-encoder"]


@pytest.mark.parametrize("name", FACES)
def test_batch_and_padding_change_no_attention(name: str) -> None:
    llm = face(name)
    together = llm.query_attentions(llm.token_context(CONTEXTS), QUERIES)
    for row, (context, query) in enumerate(zip(CONTEXTS, QUERIES, strict=True)):
        alone = llm.query_attentions(llm.token_context([context]), [query])
        assert alone.to_context.shape == (2, 1, 4, 1, len(context))
        start = alone.to_tokens.shape[-1] - len(query)
        assert start in (0, 1)
        padding = len(CONTEXTS[0]) - len(context)
        of_row = together.to_context[:, row]
        torch.testing.assert_close(of_row[..., padding:], alone.to_context[:, 0])
        tokens = together.to_tokens[:, row]
        read = len(query) + start
        torch.testing.assert_close(tokens[..., :read], alone.to_tokens[:, 0])
        assert not of_row[..., :padding].any()
        assert not tokens[..., read:].any()


@pytest.mark.parametrize("name", FACES)
def test_attention_sums_to_one(name: str) -> None:
    llm = face(name)
    for ask in (llm.query_attentions, llm.text_attentions):
        read = ask(llm.token_context(CONTEXTS[:1]), QUERIES[:1])
        sums = [part.sum(-1) for part in (read.to_context, read.to_tokens)]
        two = name in ENCODER_DECODERS or (
            name == "query-in-encoder" and ask == llm.text_attentions
        )
        for total in sums if two else [sums[0] + sums[1]]:
            torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_looking_at_attention_leaves_the_llm_as_it_was(name: str) -> None:
    llm = face(name)
    usual = llm.model.config._attn_implementation
    assert usual != "eager"
    text = llm.text_attentions(llm.token_context(CONTEXTS[:1]), QUERIES[:1])
    query = llm.query_attentions(llm.token_context(CONTEXTS[:1]), QUERIES[:1])
    assert llm.model.config._attn_implementation == usual
    # What predicts the answer is the query's last token.
    torch.testing.assert_close(query.to_context, text.to_context[:, :, :, -1:])
    torch.testing.assert_close(query.to_tokens, text.to_tokens[:, :, :, -1:])
