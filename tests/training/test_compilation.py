"""A compiled training is the same training; blocks are compiled once for all that are like them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.architectures import ARCHITECTURES
from helpers.examples import items
from helpers.learning import (
    CASES,
    EXAMPLES,
    assert_equal,
    expected,
    found,
    gradients_of,
    learnt,
    prepared,
)
from helpers.models import OBJECTIVE, TRAINING, build, random_llm, random_tokens
from torch import nn
from torch._dynamo.utils import counters

from mend.configuration.specs.training import EarlyStopping, Losses
from mend.data.examples import Example
from mend.evaluation.scoring import score_items
from mend.models.compilation import compile_blocks, is_compiled, padded_length
from mend.training.loop import train


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Compile everything anew in each test."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compile_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Let modules be compiled by another backend than the usual, which takes 10 s a graph."""
    own = nn.Module.compile

    def choose(backend: Any) -> None:
        def compile(module: nn.Module, **options: Any) -> None:
            own(module, **options, backend=backend)

        monkeypatch.setattr(nn.Module, "compile", compile)

    return choose


def graphs() -> int:
    """Return how many graphs have been compiled."""
    return counters["stats"]["unique_graphs"]


def with_blocks(name: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a case whose models have so many blocks."""
    case = CASES[name]
    architecture = ARCHITECTURES[case.architecture]
    arguments = dict(architecture.arguments)
    for key in ("n_layer", "num_hidden_layers"):
        if key in arguments:
            arguments[key] = blocks
    monkeypatch.setitem(
        ARCHITECTURES, "deep", dataclasses.replace(architecture, arguments=arguments)
    )
    monkeypatch.setitem(CASES, "deep", dataclasses.replace(case, architecture="deep"))
    return "deep"


COMPILED = ["gpt2", "llama", "gemma 3", "mistral, window", "bloom", "t5, decoding distiller"]


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_blocks_learn_the_references(name: str, compile_with) -> None:
    """Traced, in rows as long as compiled blocks get them, the operators are still the same."""
    compile_with("aot_eager")
    ready = prepared(CASES[name], torch.float64)
    gradients = gradients_of(ready, "finetune", None, compile=True)
    assert is_compiled(ready.llm.model)
    assert is_compiled(ready.method)
    losses, _ = gradients.compute(EXAMPLES["finetune"])
    assert graphs() > 0
    assert not counters["graph_break"]
    got = learnt(ready.method.distiller, losses)
    del got.losses["loss"]
    assert_equal(got, expected(ready.references[torch.float64], "finetune"))


@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon"])
def test_blocks_are_compiled_once_for_all_like_them_and_for_few_lengths(
    name: str, compile_with, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph each for the teacher's, the distiller's and the student's five blocks."""
    compile_with("eager")
    ready = prepared(CASES[with_blocks(name, 5, monkeypatch)])
    gradients = gradients_of(ready, "finetune", None, compile=True)
    for longer in (0, 1, 2):
        batch = []
        for index in range(4):
            shown = random_tokens(18 + longer + index, index)
            queries = [(random_tokens(5 + longer, 10 + index), random_tokens(2, 20 + index))]
            batch.append(Example(shown, shown, queries))
        gradients.compute(batch)
    assert graphs() == 3


def test_lengths_of_compiled_rows_are_few_and_not_much_longer(compile_with) -> None:
    model = random_llm("gpt2").model
    assert padded_length(model, 37, 96) == 37
    nn.Module.compile(model.transformer.h[0], backend="eager")
    limit = 1000
    padded = {length: padded_length(model, length, limit) for length in range(1, limit + 1)}
    assert all(length <= made <= limit for length, made in padded.items())
    assert all(made - length < max(32, 0.25 * length) for length, made in padded.items())
    assert len({made for length, made in padded.items() if length > 64}) <= 16


class Examples:
    def __getitem__(self, index: int) -> Example:
        demonstrations = random_tokens(5 + index % 4, 100 + index)
        return Example(demonstrations, demonstrations, [(random_tokens(2 + index % 3, index), [7])])


def trained(compile: bool, **changes: Any) -> tuple[torch.Tensor, list[dict]]:
    """Train a prompt through a GPT-2 with dropout; return it and what was logged."""
    llm = random_llm(dropout=True)
    torch.manual_seed(0)
    method = build(llm, "prompt-tuning", length=3)
    weights = Losses(pred=1.0, distill=0.5)
    settings = TRAINING.model_copy(
        update={"compile": compile, "losses": weights, "steps": 3, **changes}
    )

    def dev_score() -> float:
        return sum(max(scores) for scores in score_items(llm, method, items()))

    result = train(llm, method, Examples(), settings, OBJECTIVE, dev_score)
    return method.prompt.detach().clone(), result.metrics


def test_a_compiler_that_fails_changes_nothing(compile_with, caplog) -> None:
    prompt, logged = trained(compile=False)

    def broken(graph: Any, inputs: Any) -> None:
        raise FileNotFoundError("no compiler here")

    compile_with(broken)
    other, again = trained(compile=True)
    assert torch.equal(other, prompt)
    assert again == logged
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    [told] = [record.getMessage() for record in warned if record.name == "mend"]
    assert "going on uncompiled" in told
    assert "no compiler here" in told


def test_dev_rows_are_scored_uncompiled(compile_with) -> None:
    """Their shapes are many, and do not come again."""
    compile_with("eager")
    trained(compile=True)
    usual = graphs()
    torch._dynamo.reset()
    counters.clear()
    stopping = EarlyStopping(
        every=1,
        patience=9,
        rows_per_task=1,
        seed=0,
        tasks={},
        metrics="metaicl",
        option_score="mean",
    )
    _, logged = trained(compile=True, early_stopping=stopping)
    assert all("dev_score" in row for row in logged)
    assert graphs() == usual > 0


@pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler"
)
def test_code_of_the_compiler_learns_the_references() -> None:
    """By the backend that trainings use: the distiller's blocks, whose weights have gradients."""
    ready = prepared(CASES["gpt2"], torch.float64)
    compile_blocks(ready.method)
    got = found(ready, "finetune")
    assert graphs() == 1
    assert_equal(got, expected(ready.references[torch.float64], "finetune"))
