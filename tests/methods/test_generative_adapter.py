"""The generative adapter: weights made of demonstrations, beside a model merged by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.architectures import ARCHITECTURES, both, installed
from helpers.examples import examples
from helpers.jobs import changed, prediction, specification
from helpers.models import (
    DISTILLING,
    OBJECTIVE,
    TRAINING,
    random_distiller,
    random_llm,
    random_tokens,
    run_spec,
    use_eager_attention,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mend
from mend.configuration.specs.run import DistillerSource, MethodSource
from mend.configuration.specs.training import Losses
from mend.data.demonstrations import Demonstrations
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.grouping import GroupedMethod
from mend.evaluation.predict import run_prediction
from mend.evaluation.scoring import score_items
from mend.methods.built import BuiltMethod
from mend.methods.generative_adapter import GenerativeAdapter
from mend.models import distiller as distillers
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.training.gradients import _compiles
from mend.training.job import run_training
from mend.training.loop import train
from mend.training.operations import TrainingOperations

SHOWN = [
    Demonstrations([(random_tokens(4, n), random_tokens(1, 9 + n)) for n in range(count)])
    for count in (4, 1)
]
ROWS = Rows([1, 0, 1], [[3, 4], [5], [6, 7, 8]], [[9, 10], [11, 12, 13], [14]])
#: One for each way to call the modules of queries and values.
NAMES = ("gpt2", "ctrl", "gpt-neox", "mpt", "llama 3", "phi 3, window", "minicpm3")
ITEMS = [
    MultipleChoiceItem(number, shown, [1, 2], [[3], [4, 5]]) for number, shown in enumerate(SHOWN)
]


def adapting(llm: FrozenLLM, monkeypatch, learnt: bool = True, **settings) -> BuiltMethod:
    """Return the method with a random distiller; with maps that do something, as after training."""
    made = lambda source, length, reading, llm: random_distiller(llm, 8, length)  # noqa: E731
    monkeypatch.setattr(distillers, "load_distiller", made)
    run = run_spec("generative-adapter", rank=2, **settings)
    distiller = DistillerSource(path="nowhere", **dict(DISTILLING))
    method = BuiltMethod(
        GenerativeAdapter(rank=2, **settings), llm, run.model_copy(update={"distiller": distiller})
    ).eval()
    if learnt:
        torch.manual_seed(4)
        nn.init.normal_(method.hypernetwork.up.weight, std=0.5)
    return method


@pytest.mark.parametrize("modules", ["queries-and-values", "all-linear"])
@pytest.mark.parametrize("name", installed({name: ARCHITECTURES[name] for name in NAMES}))
@torch.no_grad()
def test_weights_are_as_if_merged(name: str, modules: str, monkeypatch) -> None:
    llm, plain = both(name, (1,))
    method = adapting(llm, monkeypatch, modules=modules)
    logits = llm.logits(llm.states(method.contexts(llm, SHOWN), ROWS))
    vectors, maker = method.distiller(SHOWN), method.hypernetwork
    merged = []
    for number in range(len(SHOWN)):
        other = copy.copy(plain)
        other.model = copy.deepcopy(plain.model)
        starts = [0, 0]
        for module, *sizes in zip(maker.names, maker.inputs, maker.outputs, strict=True):
            parts = []
            for side, (linear, size) in enumerate(zip((maker.down, maker.up), sizes, strict=True)):
                start = starts[side]
                parts.append(vectors[number] @ linear.weight[start : start + size].T)
                starts[side] += size
            change = parts[1].T @ parts[0]  # (out, in)
            weight = other.model.get_submodule(module)
            weight.weight += change if isinstance(weight, nn.Linear) else change.T
        merged.append(other)
    for row, (owner, before, after) in enumerate(ROWS):
        expected = merged[owner].log_probabilities([1], [*before, *after])[-len(after) :]
        found = logits[row, : len(after)].log_softmax(-1)
        torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-3)


@torch.no_grad()
def test_modules_that_get_tokens_of_several_rows_are_told(monkeypatch) -> None:
    llm, _ = both("opt, projected", (1,))
    contexts = adapting(llm, monkeypatch, modules="all-linear").contexts(llm, SHOWN)
    with pytest.raises(UserError, match="does not get one row after the other.*choose other mod"):
        llm.states(contexts, ROWS)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_an_untrained_one_is_zero_shot(architecture: str, monkeypatch) -> None:
    llm = random_llm(architecture)
    found = adapting(llm, monkeypatch, learnt=False)
    zero = llm.token_context([[], []])
    contexts = found.contexts(llm, SHOWN)
    assert torch.equal(llm.states(contexts, ROWS), llm.states(zero, ROWS))
    assert contexts.lengths == [0, 0]
    learnt = adapting(llm, monkeypatch)
    assert score_items(llm, learnt, ITEMS) != score_items(llm, found, ITEMS)


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "gpt-neox"])
def test_gradients_reach_all_that_is_trained(architecture: str, monkeypatch) -> None:
    llm = random_llm(architecture)
    method = adapting(llm, monkeypatch)
    method.own_loss("reconstruction", method.contexts(llm, SHOWN), SHOWN).sum().backward()
    # Of position embeddings, those beyond the text have none.
    assert all(one.grad.abs().sum() > 0 for one in method.parameters())
    assert all(one.grad is None for one in llm.model.parameters())


@torch.no_grad()
def test_reconstruction_is_the_loss_of_the_text_itself(monkeypatch) -> None:
    llm = random_llm()
    method = adapting(llm, monkeypatch)
    contexts = method.contexts(llm, SHOWN)
    found = method.own_loss("reconstruction", contexts, SHOWN)
    for number, tokens in enumerate(SHOWN):
        rows = Rows([0], [tokens[:1]], [tokens[1:]])
        logs = llm.logits(llm.states(contexts.select([number]), rows))[0].log_softmax(-1)
        expected = -logs.gather(1, torch.tensor(tokens[1:])[:, None]).mean()
        assert float(found[number]) == pytest.approx(float(expected), abs=1e-5)


def test_a_training_lowers_its_losses_and_is_saved_and_loaded(monkeypatch, tmp_path: Path) -> None:
    llm = random_llm()
    method = adapting(llm, monkeypatch, learnt=False)
    weights = Losses(reconstruction=1.0, pred=1.0)
    training = TRAINING.model_copy(update={"losses": weights, "steps": 30})
    result = train(llm, method, examples() * 99, training, OBJECTIVE)
    losses = [row["loss"] for row in result.metrics]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    method.eval()
    method.save(tmp_path / "weights.safetensors", stage="finetune")
    again = adapting(llm, monkeypatch)
    again.load(tmp_path / "weights.safetensors", stage="finetune")
    assert score_items(llm, again, ITEMS) == score_items(llm, method, ITEMS)


def test_what_cannot_be_is_told(monkeypatch, caplog) -> None:
    with pytest.raises(UserError, match="t5 cannot be changed as it reads"):
        adapting(random_llm("t5"), monkeypatch)
    llm = random_llm()
    monkeypatch.setattr("mend.models.changes.QUERIES_AND_VALUES", ("nothing",))
    with pytest.raises(UserError, match="modules: no queries-and-values are found in a gpt2"):
        adapting(llm, monkeypatch)
    method = adapting(llm, monkeypatch, modules="all-linear")
    with pytest.raises(UserError, match="does not distil demonstrations into vectors"):
        GroupedMethod(method)
    assert not _compiles(llm, method, TRAINING.model_copy(update={"compile": True}))
    assert "changed cannot be" in caplog.text


def test_operations_are_those_that_pytorch_counts(monkeypatch) -> None:
    llm = random_llm("llama")
    method = adapting(llm, monkeypatch)
    use_eager_attention(method.distiller)  # PyTorch counts no fused kernel of a processor
    tokens = random_tokens(40, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method.contexts(llm, [tokens])
    assert method.making_operations(tokens) == pytest.approx(counter.get_total_flops(), rel=0.05)
    counts = TrainingOperations(llm, method, Losses(pred=1.0), "finetune", OBJECTIVE)
    assert counts.known
    more = Losses(pred=1.0, reconstruction=1.0)
    more = TrainingOperations(llm, method, more, "finetune", OBJECTIVE)
    assert more(examples()) > counts(examples()) > 2 * method.making_operations(tokens[:10])


def test_a_job_trains_it_and_a_program_uses_it(data: Path, tmp_path: Path) -> None:
    spec = specification(
        tmp_path, "gpt2", "mend", stage="finetune", losses={"pred": 1.0, "reconstruction": 0.5}
    )
    source = MethodSource(name="generative-adapter", settings={"rank": 2})
    spec = spec.model_copy(update={"method": source})
    spec = changed(spec, training={"partition": "all", "learning_rate": 0.05})
    run_training(spec, tmp_path / "run", episodes=data / "train.parquet", tasks=data / "tasks")
    where = (data / "test.parquet", data / "tasks", tmp_path / "found.parquet", tmp_path / "run")
    run_prediction(prediction(spec, stage="finetune"), *where)
    found = pyarrow.parquet.read_table(tmp_path / "found.parquet").to_pylist()
    assert {row["context_length"] for row in found} == {0}

    method = mend.Distiller.from_pretrained(tmp_path / "run")
    context = method.distill([("w1 w2", "w50"), ("w3 w4", "w51 w52")])
    assert repr(context) == (
        "Context(generative-adapter: low-rank weights of 2 modules for 2 demonstrations)"
    )
    queries, options = ["w7 w8", "w9"], ["w50", "w51 w52"]
    scores = method.score(context, queries, options)
    zero_shot = mend.ZeroShot(method.llm, like=method)
    assert scores != zero_shot.score(zero_shot.distill("any"), queries, options)
    method.save_pretrained(tmp_path / "saved")
    assert "low-rank weights that stand for demonstrations" in (
        (tmp_path / "saved/README.md").read_text().lower()
    )
    context.save_pretrained(tmp_path / "context")
    again = mend.Context.from_pretrained(tmp_path / "context", llm=method.llm)
    assert method.score(again, queries, options) == scores
    with pytest.raises(UserError, match="generative-adapter does not distil .* into vectors"):
        method.distill([("w1", "w2")], group=1)
