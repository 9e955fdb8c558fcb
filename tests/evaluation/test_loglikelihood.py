"""Log-likelihoods of continuations equal a plain loop over the model of transformers."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, random_llm, random_tokens
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mend.errors import UserError
from mend.evaluation.loglikelihood import Continuation, LogLikelihood, log_likelihoods
from mend.models.contexts import TokenContexts
from mend.models.frozen_llm import FrozenLLM

TOKENS = [random_tokens(7, 1), random_tokens(12, 2), random_tokens(3, 3)]


def vectors() -> Tensor:
    return torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))


def continuations() -> list[Continuation]:
    """Return continuations after three contexts, some of which share all but their last token."""
    made = []
    for context in (2, 0, 1, 0):
        query = random_tokens(2 + context, 50 + context)
        made += [Continuation(context, query, [token]) for token in (4, 9, 30)]
        made.append(Continuation(context, query, random_tokens(4, 60 + context)))
        made.append(Continuation(context, [], random_tokens(2, 70)))
    return made


def plainly(llm: FrozenLLM, context: Tensor, one: Continuation) -> LogLikelihood:
    """Return what the model of transformers says, token by token."""
    embed = llm.model.get_input_embeddings()
    if llm.model.config.is_encoder_decoder:
        start = llm.model.config.decoder_start_token_id
        text = [start, *one.query, *one.tokens]
        inputs = {"inputs_embeds": context[None], "decoder_input_ids": torch.tensor([text])}
        logits = llm.model(**inputs).logits[0]
    else:
        text = [*one.query, *one.tokens]
        rows = torch.cat([context, embed(torch.tensor(text))])
        logits = llm.model(inputs_embeds=rows[None]).logits[0]
    logs = logits[-len(one.tokens) - 1 : -1].log_softmax(-1)
    values = [row[token].item() for row, token in zip(logs, one.tokens, strict=True)]
    return LogLikelihood(sum(values), logs.argmax(-1).tolist() == list(one.tokens))


@pytest.mark.parametrize("architecture", [*sorted(CONFIGURATIONS), "t5"])
@pytest.mark.parametrize("kind", ["tokens", "vectors"])
@torch.no_grad()
def test_equal_to_a_plain_loop(architecture: str, kind: str) -> None:
    llm = random_llm(architecture)
    if kind == "vectors":
        contexts, embedded = llm.vector_context(vectors()), vectors()
    else:
        contexts = llm.token_context(TOKENS)
        embedded = [llm.model.get_input_embeddings()(torch.tensor(tokens)) for tokens in TOKENS]
    asked = continuations()
    # One is made the greedy continuation, so that both answers come out.
    first = plainly_greedy(llm, embedded[asked[0].context], asked[0].query)
    asked[0] = asked[0]._replace(tokens=first)
    found = log_likelihoods(llm, contexts, asked, context_batch_size=2, batch_size=3)
    expected = [plainly(llm, embedded[one.context], one) for one in asked]
    assert [one.total for one in found] == pytest.approx([e.total for e in expected], abs=1e-4)
    assert [one.is_greedy for one in found] == [one.is_greedy for one in expected]
    assert found[0].is_greedy
    assert not all(one.is_greedy for one in found)


def plainly_greedy(llm: FrozenLLM, context: Tensor, query: list[int], steps: int = 3) -> list[int]:
    """Return the most likely tokens, each chosen by a plain pass of its own."""
    chosen: list[int] = []
    for _ in range(steps):
        best = max(
            range(llm.model.config.vocab_size),
            key=lambda token: plainly(llm, context, Continuation(0, query, [*chosen, token])).total,
        )
        chosen.append(best)
    return chosen


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_the_last_token_takes_no_position(shared: bool) -> None:
    llm = random_llm()
    llm.shares_contexts = shared
    one = Continuation(0, [1] * 5, [2] * 2)
    [found] = log_likelihoods(llm, TokenContexts([random_tokens(90, 1)]), [one])
    logits = llm.model(torch.tensor([[*random_tokens(90, 1), *one.query, 2]])).logits[0, -2:]
    assert found.total == pytest.approx(logits.log_softmax(-1)[:, 2].sum().item(), abs=1e-4)


@torch.no_grad()
def test_contexts_that_cannot_be_shared_give_the_same() -> None:
    llm = random_llm("llama")
    asked = continuations()
    expected = log_likelihoods(llm, llm.token_context(TOKENS), asked)
    llm.shares_contexts = False
    found = log_likelihoods(llm, llm.token_context(TOKENS), asked)
    assert [one.total for one in found] == pytest.approx([e.total for e in expected], abs=1e-4)


def test_a_context_is_read_once_and_one_token_answers_together() -> None:
    llm = random_llm("llama")
    context = llm.token_context([random_tokens(40, 1)])
    query = random_tokens(5, 2)
    operations = []
    for options in (1, 20):
        asked = [Continuation(0, query, [token]) for token in range(options)]
        with FlopCounterMode(display=False) as counter:
            log_likelihoods(llm, context, asked)
        operations.append(counter.get_total_flops())
    assert operations[1] == operations[0]


def test_smaller_batches_where_memory_runs_out(monkeypatch) -> None:
    llm = random_llm()
    expected = log_likelihoods(llm, TokenContexts(TOKENS), continuations())
    prefill, sizes = llm.prefill, []

    def scarce(contexts):
        sizes.append(len(contexts.lengths))
        if len(contexts.lengths) > 1:
            raise torch.OutOfMemoryError
        return prefill(contexts)

    monkeypatch.setattr(llm, "prefill", scarce)
    monkeypatch.setattr(llm, "can_share", lambda *_: True)
    found = log_likelihoods(llm, TokenContexts(TOKENS), continuations())
    assert [one.total for one in found] == pytest.approx([e.total for e in expected], abs=1e-4)
    assert max(sizes) == 3

    def nothing(contexts):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(llm, "prefill", nothing)
    with pytest.raises(UserError, match="memory ran out"):
        log_likelihoods(llm, TokenContexts(TOKENS), continuations())


@pytest.mark.parametrize(
    ("context", "query", "tokens", "message"),
    [
        ([3], [4], [], "continuation 1 has no tokens"),
        ([], [], [4], "nothing comes before continuation 1"),
        (random_tokens(90, 1), [1] * 5, [2] * 3, "do not fit the 97 that the LLM has"),
    ],
)
def test_what_has_no_probability_is_refused(context, query, tokens, message) -> None:
    llm = random_llm()
    with pytest.raises(UserError, match=message):
        log_likelihoods(llm, TokenContexts([context]), [Continuation(0, query, tokens)])
