"""Low-rank weights and additions: each row is read as its own context changes the model."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.architectures import ARCHITECTURES, Plain, both, installed, words
from helpers.models import OBJECTIVE, VOCABULARY, built, random_llm
from torch import Tensor, nn

from mend.configuration.specs.training import Losses
from mend.data.examples import Example
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.loglikelihood import Continuation, log_likelihoods
from mend.evaluation.scoring import score_items
from mend.methods.base import Method
from mend.models.changes import QUERIES_AND_VALUES, blocks_of, linear_modules
from mend.models.compilation import compile_blocks, uncompile_blocks
from mend.models.contexts import AdditionContexts, Changes, LowRankContexts
from mend.models.frozen_llm import FrozenLLM, Rows, body_of
from mend.models.generation import generate
from mend.training.losses import example_losses

RANK, NEW = 2, 5
#: Two contexts; the last row's query is partly predicted.
ROWS = Rows(
    [1, 0, 1, 0],
    [words(4, 3), words(2, 9), words(1, 5), words(1, 2)],
    [words(2, 6), words(3, 7), words(1, 8), words(4, 4)],
    [0, 0, 0, 2],
)
DECODERS = {
    name: one
    for name, one in ARCHITECTURES.items()
    if one.required and "decoder_start_token_id" not in one.arguments and name != "phi 3, longrope"
}
KINDS = ["low-rank", "additions"]


def contexts_for(llm: FrozenLLM, kind: str, number: int = 2) -> Changes:
    """Return contexts that change much."""
    generator = torch.Generator().manual_seed(3)

    def numbers(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    if kind == "additions":
        width = llm.model.config.hidden_size
        return llm.addition_context({block: 3 * numbers(number, width) for block in (0, 1)})
    sizes = linear_modules(llm.model, QUERIES_AND_VALUES)
    down = {name: numbers(number, RANK, size[0]) for name, size in sizes.items()}
    return llm.low_rank_context(
        down, {name: 0.5 * numbers(number, size[1], RANK) for name, size in sizes.items()}
    )


def changed_plain(plain: Plain, contexts: Changes, number: int, place: int) -> Plain:
    """Return the model with a context's weights merged into it, or one that adds at a place."""
    plain = copy.copy(plain)
    plain.model = copy.deepcopy(plain.model)
    plain.embedding = plain.model.get_input_embeddings()
    if isinstance(contexts, LowRankContexts):
        for name, down in contexts.down.items():
            module = plain.model.get_submodule(name)
            change = contexts.up[name][number] @ down[number]
            module.weight += change if isinstance(module, nn.Linear) else change.T
        return plain
    for block, vectors in contexts.vectors.items():

        def add(module, given, output, vector=vectors[number]):
            states = output if isinstance(output, Tensor) else output[0]
            states[:, place] += vector

        blocks_of(body_of(plain.model))[block].register_forward_hook(add)
    return plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", installed(DECODERS))
@torch.no_grad()
def test_rows_are_read_by_a_model_that_is_changed(name: str, kind: str) -> None:
    prefix = (1,)
    llm, plain = both(name, prefix)
    contexts = contexts_for(llm, kind)
    logits = llm.logits(llm.states(contexts, ROWS))
    for row, (owner, before, after) in enumerate(ROWS):
        place = len(prefix) + len(before) + ROWS.queries[row] - 1
        text = [*before, *after]
        other = changed_plain(plain, contexts, owner, place)
        expected = other.log_probabilities(prefix, text)[-len(after) :]
        found = logits[row, : len(after)].log_softmax(-1)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def as_the_model_writes(plain: Plain, contexts: Changes, owner: int, query: list[int]) -> list[int]:
    """Return the likeliest tokens one after the other, by a pass for each."""
    other = changed_plain(plain, contexts, owner, len(query) - 1)
    ends, new = other.model.generation_config.eos_token_id, []
    for _ in range(NEW):
        logits = other.model(torch.tensor([[*query, *new]]), use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token == ends:
            break
        new.append(token)
    return without_padding(new)


def without_padding(tokens: list[int]) -> list[int]:
    """Return tokens without those at the end that rows which have ended are filled up with."""
    return [token for place, token in enumerate(tokens) if any(tokens[place:])]


QUERIES = [words(4, 3), words(2, 4), words(1, 5)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", installed(DECODERS))
@torch.no_grad()
def test_text_is_written_by_a_model_that_is_changed(name: str, kind: str) -> None:
    llm, plain = both(name, (1,))
    contexts = contexts_for(llm, kind)
    asked = {"do_sample": False, "max_new_tokens": NEW}
    if name in ("openai-gpt", "ctrl"):  # transformers generates after tokens alone with these
        with pytest.raises(UserError, match="inputs_embeds"):
            generate(llm, contexts, [1, 0, 1], QUERIES, **asked)
        return
    found = generate(llm, contexts, [1, 0, 1], QUERIES, **asked)
    pairs = zip([1, 0, 1], QUERIES, strict=True)
    assert found == [as_the_model_writes(plain, contexts, of, [1, *query]) for of, query in pairs]
    assert any(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "options", [{"num_beams": 3, "num_return_sequences": 2}, {"use_cache": False}]
)
@torch.no_grad()
def test_rows_that_are_repeated_or_read_again(kind: str, architecture: str, options: dict):
    llm = random_llm(architecture)
    contexts = contexts_for(llm, kind)
    end = VOCABULARY - 1
    options = {"do_sample": False, "max_new_tokens": NEW, **options}
    options |= {"pad_token_id": 0, "eos_token_id": end}
    found = generate(llm, contexts, [1, 0, 1], QUERIES, **options)
    expected = []
    for owner, query in zip([1, 0, 1], QUERIES, strict=True):
        other = changed_plain(Plain(llm.model), contexts, owner, len(query) - 1)
        if kind == "additions":  # its hook knows the whole row alone
            options = {**options, "use_cache": False}
        ids = torch.tensor([query])
        for row in other.model.generate(ids, **options)[:, len(query) :].tolist():
            written = row[: row.index(end)] if end in row else row
            expected.append(without_padding(written))
    assert found == expected


def test_hooks_are_gone_afterwards_and_after_errors() -> None:
    llm = random_llm()
    nothing = llm.token_context([[]])
    before = llm.states(nothing, Rows([0], [words(3, 1)], [[5]]))
    for kind in KINDS:
        contexts = contexts_for(llm, kind)
        llm.states(contexts, Rows([0], [words(3, 1)], [[5]]))
        with pytest.raises(IndexError):
            llm.states(contexts, Rows([0], [[10_000]], [[5]]))
        with pytest.raises(UserError):
            generate(llm, contexts, [0], [words(3, 1)], nonsense=1)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in llm.model.modules())
    assert torch.equal(llm.states(nothing, Rows([0], [words(3, 1)], [[5]])), before)


def test_compiled_blocks_run_as_they_are_written() -> None:
    llm = random_llm()
    rows = Rows([0, 1], [words(3, 1), words(2, 2)], [[5, 6], [7]])
    for kind in KINDS:
        contexts = contexts_for(llm, kind)
        before = llm.states(contexts, rows)
        compile_blocks(llm.model)
        torch.testing.assert_close(llm.states(contexts, rows), before)
        uncompile_blocks(llm.model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_they_can_be_trained(architecture: str, kind: str) -> None:
    llm = random_llm(architecture)
    contexts = contexts_for(llm, kind)
    parts = (
        [*contexts.down.values(), *contexts.up.values()]
        if isinstance(contexts, LowRankContexts)
        else [*contexts.vectors.values()]
    )
    for part in parts:
        part.requires_grad_()

    def loss() -> Tensor:
        return llm.logits(llm.states(contexts, ROWS))[:, 0].log_softmax(-1)[:, 5].sum()

    loss().backward()
    assert all((part.grad.flatten(1).norm(dim=1) > 0).all() for part in parts)
    change = torch.zeros_like(parts[0])
    change.view(-1)[3] = 1e-3
    sides = []
    with torch.no_grad():
        for sign in (1, -2):
            parts[0] += sign * change
            sides.append(float(loss()))
    slope = (sides[0] - sides[1]) / 2e-3
    assert slope == pytest.approx(float(parts[0].grad.view(-1)[3]), rel=0.05, abs=1e-2)


class Changing(Method):
    """Changes that were made before."""

    display_name = "Changing"

    def contexts(self, llm, trained, demonstrations):
        """Return what the first tokens of demonstrations number."""
        kind = KINDS[demonstrations[0][1]]
        return contexts_for(llm, kind).select([tokens[0] for tokens in demonstrations])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_options_are_scored_as_single_rows(architecture: str, kind: str) -> None:
    llm = random_llm(architecture)
    items = [
        MultipleChoiceItem(
            number,
            [number, KINDS.index(kind)],
            words(2 + seed, 40 + seed),
            [words(count, 10 * seed + count) for count in (1, 3)],
        )
        for number in (1, 0)
        for seed in (1, 2, 3)
    ]
    found = score_items(llm, built(llm, Changing()), items, item_batch_size=32)
    contexts, plain = contexts_for(llm, kind), Plain(llm.model)
    assert not llm.can_share(contexts, [5])
    asked = [
        Continuation(item.context, item.query, option) for item in items for option in item.options
    ]
    single = iter(log_likelihoods(llm, contexts, asked))
    for item, scores in zip(items, found, strict=True):
        other = changed_plain(plain, contexts, item.context, len(item.query) - 1)
        for option, score in zip(item.options, scores, strict=True):
            text = [*item.query[1:], *option]
            logs = other.log_probabilities(item.query[:1], text)[-len(option) :]
            right = logs[torch.arange(len(option)), torch.tensor(option)].mean()
            assert score == pytest.approx(float(right), abs=1e-4)
            whole = next(single).total
            assert whole == pytest.approx(float(right) * len(option), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_training_changes_what_predicts_the_answer(kind: str) -> None:
    llm = random_llm()
    shown = [[number, KINDS.index(kind)] for number in (1, 0)]
    queries = [(words(3, 1), words(2, 2)), (words(5, 3), words(1, 4))]
    examples = [
        Example(one, one, [query], others=[[words(1, 9)]])
        for one, query in zip(shown, queries, strict=True)
    ]
    losses = example_losses(
        llm, built(llm, Changing()), examples, Losses(pred=1.0, choice=1.0), "finetune", OBJECTIVE
    )
    expected = 0.0
    for (number, _), (x, y) in zip(shown, queries, strict=True):
        other = changed_plain(Plain(llm.model), contexts_for(llm, kind), number, len(x) - 1)
        logs = other.log_probabilities(x[:1], [*x[1:], *y])[-len(y) :]
        expected -= float(logs[torch.arange(len(y)), torch.tensor(y)].mean()) / 2
    assert float(losses["pred"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_chosen_of_and_joined(kind: str) -> None:
    llm = random_llm()
    contexts = contexts_for(llm, kind, 3)
    assert contexts.lengths == contexts.spans == contexts.read_anew == [0] * 3
    again = type(contexts).join([contexts.select([2]), contexts.select([0, 1])]).select([1, 2, 0])
    assert torch.equal(llm.states(again, ROWS), llm.states(contexts, ROWS))
    tensors = [one for part in vars(contexts).values() for one in part.values()]
    assert contexts.nbytes == [sum(one[0].numel() * 4 for one in tensors)] * 3


def test_what_one_batch_lacks_is_nothing() -> None:
    llm = random_llm()
    both_blocks = contexts_for(llm, "additions")
    one = llm.addition_context({1: both_blocks.vectors[1]})
    joined = AdditionContexts.join([one, both_blocks])
    rows = Rows([0, 3], ROWS.inputs[:2], ROWS.targets[:2])
    found = llm.states(joined, rows)
    for row, contexts in enumerate((one, both_blocks)):
        alone = llm.states(contexts, Rows([row], [rows.inputs[row]], [rows.targets[row]]))[0]
        torch.testing.assert_close(found[row, : len(alone)], alone)
    whole = contexts_for(llm, "low-rank")
    narrow = llm.low_rank_context(
        {name: part[:, :1] for name, part in whole.down.items()},
        {name: part[..., :1] for name, part in whole.up.items()},
    )
    joined = LowRankContexts.join([narrow, whole]).select([0])
    rows = Rows([0], [words(3, 1)], [[5]])
    torch.testing.assert_close(llm.states(joined, rows), llm.states(narrow, rows))


def test_what_cannot_be_changed_is_told() -> None:
    llm = random_llm()
    down, up = torch.ones(1, 2, 16), torch.ones(1, 4, 2)
    with pytest.raises(UserError, match="no linear module transformer.h.9 of 16 inputs and 4 outp"):
        llm.low_rank_context({"transformer.h.9": down}, {"transformer.h.9": up})
    for block, width in ((2, 16), (0, 8)):
        with pytest.raises(UserError, match=f"no block {block} of width {width}.* 0 to 1, of"):
            llm.addition_context({block: torch.ones(1, width)})
    contexts = contexts_for(llm, "additions")
    with pytest.raises(UserError, match="additions has no embeddings"):
        llm.embeddings(contexts, [0], [[1]])
    with pytest.raises(UserError, match="nothing comes before"):
        generate(llm, contexts, [0], [[]])
    with pytest.raises(UserError, match="t5 cannot be changed as it reads.*decoder-only"):
        random_llm("t5").addition_context({0: torch.ones(1, 16)})
