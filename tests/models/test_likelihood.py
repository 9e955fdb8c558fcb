"""The losses of texts after contexts, against plain passes of one row at a time."""

from __future__ import annotations

import pytest
import torch
from helpers.models import random_llm

from mend.models.likelihood import text_losses

TEXTS = [[5, 6, 7, 8], [], [9], [3, 4]]
CONTEXTS = [[11, 12, 13], [14], [], [15, 16]]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_they_are_those_of_each_text_alone(architecture: str) -> None:
    llm = random_llm(architecture)
    expected = []
    for context, text in zip(CONTEXTS, TEXTS, strict=True):
        whole = [*context, *text]
        if len(whole) < 2 or not text:  # nothing comes before its first token
            expected.append(0.0)
            continue
        logs = llm.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        first = len(context)
        places = range(max(first, 1), len(whole))
        each = [-logs[place - 1, whole[place]] for place in places]
        expected.append(float(torch.stack(each).mean()))
    found = text_losses(llm, llm.token_context(CONTEXTS), TEXTS)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert text_losses(llm, llm.token_context([[1]]), [[]]).tolist() == [0.0]


def test_several_texts_may_come_after_one_context(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = random_llm()
    vectors = torch.randn(2, 3, llm.width, requires_grad=True)
    twice = text_losses(llm, llm.vector_context(vectors), TEXTS, [1, 0, 1, 0])
    repeated = text_losses(llm, llm.vector_context(vectors[[1, 0, 1, 0]]), TEXTS)
    torch.testing.assert_close(twice, repeated)
    (whole,) = torch.autograd.grad(twice.sum(), vectors, retain_graph=True)
    assert whole.abs().sum((1, 2)).min() > 0
    monkeypatch.setattr("mend.models.frozen_llm.LOGITS_AT_ONCE", 2 * 61)  # two positions at a time
    in_chunks = text_losses(llm, llm.vector_context(vectors), TEXTS, [1, 0, 1, 0])
    torch.testing.assert_close(in_chunks, twice)
    (again,) = torch.autograd.grad(in_chunks.sum(), vectors)
    torch.testing.assert_close(again, whole)


@torch.no_grad()
def test_what_the_llm_has_no_positions_for_is_not_counted() -> None:
    llm = random_llm()
    context, text = [[1] * (llm.max_positions - 5)], [3, 4, 5, 6, 7, 8, 9]
    found = text_losses(llm, llm.token_context(context), [text])
    torch.testing.assert_close(found, text_losses(llm, llm.token_context(context), [text[:5]]))
    asked = text_losses(llm, llm.token_context(context), [text], asking=[2])
    rest = text_losses(llm, llm.token_context([[*context[0], 2]]), [text[:4]])
    torch.testing.assert_close(asked, rest)
