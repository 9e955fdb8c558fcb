"""Text that an LLM writes after contexts: as the model itself writes it, one row at a time."""

from __future__ import annotations

import pytest
import torch
from helpers.architectures import ARCHITECTURES, Plain, both, installed, words
from helpers.models import random_llm, word_tokenizer
from transformers import TextIteratorStreamer

from mend.errors import UserError
from mend.models.frozen_llm import FrozenLLM
from mend.models.generation import generate
from mend.models.loading import frozen_llm

NEW = 6
#: Contexts of several lengths, and queries of several after them.
CONTEXTS = [words(7, 1), words(3, 2)]
OWNER = [1, 0, 1]
QUERIES = [words(4, 3), words(2, 4), words(1, 5)]
#: transformers generates after tokens alone with these.
REFUSED = ("openai-gpt", "ctrl")
READ_VECTORS = {
    name: one
    for name, one in ARCHITECTURES.items()
    if one.required and one.vectors and not one.widens_masks
}


@torch.no_grad()
def greedy(plain: Plain, context: list[int], query: list[int], as_vectors: bool) -> list[int]:
    """Return the likeliest tokens one after the other, by a plain pass for each."""
    before, text = [*context], [*query]
    if not plain.model.config.is_encoder_decoder:
        before, text = [*context, *query[:-1]], query[-1:]
    if as_vectors:
        before = plain.embedding(torch.tensor(before))
    ends = plain.model.generation_config.eos_token_id
    new: list[int] = []
    for _ in range(NEW):
        found = plain.log_probabilities(before, [*text, *new, 0])[-1]
        token = int(found.argmax())
        if token == ends:
            break
        new.append(token)
    return new


@pytest.mark.parametrize("kind", ["tokens", "vectors", "key-values"])
@pytest.mark.parametrize("name", installed(READ_VECTORS))
def test_as_the_model_alone_would_write_it(name: str, kind: str) -> None:
    llm, plain = both(name)
    if kind == "key-values" and llm.refuses_key_values:
        pytest.skip("it cannot read keys and values")
    if kind != "vectors":
        contexts = llm.token_context(CONTEXTS)
        if kind == "key-values":
            contexts = llm.key_values(contexts)
    else:
        vectors = [llm.embedding(torch.tensor(tokens)) for tokens in CONTEXTS]
        padded = torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True)
        contexts = llm.vector_context(padded, list(map(len, CONTEXTS)))
    asked = {"batch_size": 2, "do_sample": False, "max_new_tokens": NEW}
    if name in REFUSED and kind != "key-values":
        with pytest.raises(UserError, match="inputs_embeds"):
            generate(llm, contexts, OWNER, QUERIES, **asked)
        return
    found = generate(llm, contexts, OWNER, QUERIES, **asked)
    expected = [
        greedy(plain, CONTEXTS[owner], query, kind == "vectors")
        for owner, query in zip(OWNER, QUERIES, strict=True)
    ]
    assert found == expected
    assert any(expected)


@pytest.mark.parametrize("context", [[], words(5, 1)])
def test_a_t5_that_reads_queries_in_its_encoder(context: list[int]) -> None:
    plain = Plain(random_llm("t5").model)
    llm = frozen_llm(random_llm("t5").model, word_tokenizer(), query_in="encoder")
    contexts = llm.token_context([context])
    found = generate(llm, contexts, [0], [words(3, 2)], do_sample=False, max_new_tokens=NEW)
    assert found == [greedy(plain, [*context, *words(3, 2)], [], as_vectors=False)]


@pytest.mark.parametrize("kind", ["tokens", "key-values", "t5"])
def test_a_row_ends_at_a_text_that_it_has_written(kind: str) -> None:
    llm = random_llm("t5" if kind == "t5" else "gpt2")
    contexts = llm.token_context(CONTEXTS)
    if kind == "key-values":
        contexts = llm.key_values(contexts)
    options = {"do_sample": False, "max_new_tokens": NEW}
    whole = generate(llm, contexts, OWNER, QUERIES, **options)
    stop = llm.tokenizer.decode([whole[0][2]])
    asked = llm.token_context(CONTEXTS) if kind == "tokens" else contexts
    found = generate(llm, asked, OWNER, QUERIES, stop_strings=["", stop], **options)
    for row, tokens in zip(found, whole, strict=True):
        places = [n for n, token in enumerate(tokens) if stop in llm.tokenizer.decode([token])]
        end = places[0] + 1 if places else len(tokens)
        assert row == tokens[:end]
    assert len(found[0]) <= 3


def test_options_of_transformers_are_taken() -> None:
    llm = random_llm()
    contexts = llm.token_context(CONTEXTS)
    torch.manual_seed(0)
    several = generate(
        llm, contexts, OWNER, QUERIES, do_sample=True, num_return_sequences=2, max_new_tokens=NEW
    )
    assert len(several) == 2 * len(QUERIES)
    streamer = TextIteratorStreamer(llm.tokenizer)
    whole = generate(
        llm, contexts, [0], QUERIES[:1], do_sample=False, max_new_tokens=NEW, streamer=streamer
    )
    assert "".join(streamer).split() == [f"w{token}" for token in whole[0]]


@pytest.fixture
def llm() -> FrozenLLM:
    return random_llm()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"inputs_embeds": torch.zeros(1, 2, 16)}, "inputs_embeds is decided by the context"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 90}, "do not fit the 96"),
        ({"nonsense": 3}, "nonsense"),
        ({"streamer": TextIteratorStreamer(None)}, "a streamer is for one query"),
    ],
)
def test_what_cannot_be_is_told(llm: FrozenLLM, options: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        generate(llm, llm.token_context(CONTEXTS), OWNER, QUERIES, **options)


def test_nothing_to_go_on_from_is_told(llm: FrozenLLM) -> None:
    with pytest.raises(UserError, match="nothing comes before"):
        generate(llm, llm.token_context([[]]), [0], [[]])
