"""Operations of one reading of a saved context, against those that PyTorch counts of it."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from helpers.architectures import ARCHITECTURES, tiny, words
from helpers.models import t5_configuration, with_plain_products
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSeq2SeqLM

from mend.models.changes import QUERIES_AND_VALUES, linear_modules
from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.loading import frozen_llm
from mend.models.operations import ReadingOperations

LENGTH, QUERY, ANSWER = 5, words(3, 1), words(2, 2)


def llm_of(name: str, **options) -> FrozenLLM:
    """Return an architecture's LLM."""
    return frozen_llm(with_plain_products(tiny(ARCHITECTURES[name])), None, **options)


def counted(llm: FrozenLLM, contexts: Contexts, saved: bool = False) -> int:
    """Return what PyTorch counts of reading a context, a query and an answer.

    saved: after keys and values that are there already.
    """
    rows = Rows([0], [QUERY], [ANSWER])
    prefilled = llm.prefill(contexts) if saved else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        states = llm.states_after(prefilled, rows) if saved else llm.states(contexts, rows)
        llm.logits(states[:, : len(ANSWER)])
    return counter.get_total_flops()


def of_tokens(llm: FrozenLLM) -> Contexts:
    return llm.token_context([words(LENGTH, 3)])


def of_vectors(llm: FrozenLLM) -> Contexts:
    return llm.vector_context(torch.randn(1, LENGTH, llm.width))


NAMES = ["gpt2", "opt", "llama 3", "mistral", "qwen2", "gemma 3", "phi", "deepseek v3", "t5"]


@pytest.mark.parametrize("prefix", [[], [1, 2]])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_vectors_are_read_anew_with_each_query(name, prefix):
    llm = llm_of(name, prefix=prefix)
    count = ReadingOperations(llm)
    for contexts in (of_tokens(llm), of_vectors(llm)):
        found = count(contexts, 0, len(QUERY), [len(ANSWER)])
        assert found == pytest.approx(counted(llm, contexts), rel=2e-3)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama 3", "qwen2", "phi"])
def test_keys_and_values_are_attended_to_and_not_computed(name):
    llm = llm_of(name, prefix=[1, 2])
    llm.refuses_key_values = None
    contexts = llm.key_values(of_tokens(llm))
    found = ReadingOperations(llm)(contexts, 0, len(QUERY), [len(ANSWER)])
    assert found == pytest.approx(counted(llm, contexts, saved=True), rel=2e-3)
    assert found < ReadingOperations(llm)(of_tokens(llm), 0, len(QUERY), [len(ANSWER)])


@pytest.mark.parametrize("name", ["gpt2", "llama 3"])
def test_low_rank_weights_multiply_every_token_and_additions_none(name):
    llm = llm_of(name, prefix=[1, 2])
    count = ReadingOperations(llm)
    after = len(QUERY), [len(ANSWER)]
    nothing = count(llm.token_context([[]]), 0, *after)
    assert count(llm.addition_context({1: torch.ones(2, llm.width)}), 1, *after) == nothing
    sizes = linear_modules(llm.model, QUERIES_AND_VALUES)
    low_rank = llm.low_rank_context(
        {part: torch.randn(1, 3, inputs) for part, (inputs, _) in sizes.items()},
        {part: torch.randn(1, outputs, 3) for part, (_, outputs) in sizes.items()},
    )
    found = count(low_rank, 0, *after)
    assert found == pytest.approx(counted(llm, low_rank), rel=2e-3)
    assert found > nothing


@pytest.mark.parametrize("query_in", ["decoder", "encoder"])
def test_a_t5_reads_the_query_where_its_layout_has_it(query_in):
    model = with_plain_products(AutoModelForSeq2SeqLM.from_config(t5_configuration(32)))
    llm = frozen_llm(model, None, query_in=query_in)
    for contexts in (of_tokens(llm), of_vectors(llm), llm.token_context([[]])):
        found = ReadingOperations(llm)(contexts, 0, len(QUERY), [len(ANSWER)])
        assert found == pytest.approx(counted(llm, contexts), rel=2e-3)


def test_options_are_read_as_a_tree():
    llm = llm_of("gpt2")
    layers, width, head = 2, 32, llm.model.get_output_embeddings().weight.numel()
    read = LENGTH + 3 + (2 - 1) + (1 - 1) + (4 - 1)
    expected = layers * read * (2 * 12 * width**2 + 4 * width * read) + 2 * head * (2 + 1 + 4)
    assert ReadingOperations(llm)(of_vectors(llm), 0, 3, [2, 1, 4]) == expected


def test_sizes_that_are_not_found_are_told_once_and_are_no_number(caplog):
    llm = llm_of("gpt2")
    llm.body = nn.Sequential(nn.ReLU())
    with caplog.at_level(logging.WARNING):
        count = ReadingOperations(llm)
        assert all(math.isnan(count(of_tokens(llm), 0, 3, [2])) for _ in range(2))
    assert len(caplog.records) == 1
