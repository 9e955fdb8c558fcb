"""The training loop: it learns, cuts batches without a trace, stops early, and resumes."""

from __future__ import annotations

import math
from collections.abc import Container

import pytest
import torch
from helpers.models import OBJECTIVE, build, built, random_llm, random_tokens
from helpers.models import TRAINING as SHARED_TRAINING

from mend.configuration.specs.training import EarlyStopping, Losses, TrainingSettings
from mend.data.examples import Example
from mend.errors import UserError
from mend.methods.built import BuiltMethod
from mend.methods.prompt_tuning import PromptTuning
from mend.models import operations
from mend.training.checkpoint import Checkpoint
from mend.training.loop import TrainingResult, learning_rate_factor, train

STOPPING = EarlyStopping(
    every=2, patience=2, rows_per_task=1, seed=0, tasks={}, metrics="metaicl", option_score="mean"
)
TRAINING = SHARED_TRAINING.model_copy(update={"early_stopping": STOPPING})


def training(**changes) -> TrainingSettings:
    """Return the settings with some changed."""
    return TRAINING.model_copy(update=changes)


class Examples:
    """Queries of varied lengths with one answer."""

    def __getitem__(self, index: int) -> Example:
        return Example([], [], [(random_tokens(2 + index % 3, index), [7])])


def prompt(seed: int = 0) -> tuple:
    llm = random_llm()
    torch.manual_seed(seed)
    return llm, build(llm, "prompt-tuning", length=3)


def run(changes: dict | None = None, **options) -> tuple[torch.Tensor, TrainingResult]:
    llm, method = prompt()
    result = train(llm, method, Examples(), training(**(changes or {})), OBJECTIVE, **options)
    return method.prompt.detach().clone(), result


def test_the_loss_goes_down() -> None:
    _, result = run({"steps": 30})
    assert result.metrics[-1]["loss"] < 0.9 * result.metrics[0]["loss"]
    assert result.steps == result.best_step == 30
    assert result.examples == 120
    assert result.flops > 0


def assert_same_metrics(result: TrainingResult, other: TrainingResult) -> None:
    """Losses and gradients, not weights: AdamW makes much of gradients that are about zero."""
    for row, found in zip(result.metrics, other.metrics, strict=True):
        assert found == pytest.approx(row, rel=1e-4)


def test_micro_batches_change_nothing() -> None:
    assert_same_metrics(run()[1], run({"micro_batch_size": 3})[1])


def test_early_stopping_keeps_the_best_weights() -> None:
    scores = iter([50.0, 60.0, 55.0, 60.0, 99.0])
    best, result = run(dev_score=lambda: next(scores))
    assert (result.best_step, result.steps, result.stopped_early) == (4, 8, True)
    assert result.best_score == 60.0
    # The learning rate follows the planned steps, so stop the reference where the best was.
    scores = iter([50.0, 60.0, 0.0, 0.0])
    again, _ = run(dev_score=lambda: next(scores))
    torch.testing.assert_close(best, again)


def test_the_last_step_is_a_candidate_for_the_best_weights() -> None:
    changes = {"steps": 5, "early_stopping": STOPPING.model_copy(update={"every": 2})}
    scores = iter([50.0, 40.0, 60.0])
    last, result = run(changes, dev_score=lambda: next(scores))
    assert [row["step"] for row in result.metrics if "dev_score" in row] == [2, 4, 5]
    assert (result.best_step, result.best_score, result.stopped_early) == (5, 60.0, False)
    unscored, _ = run({**changes, "early_stopping": None})
    assert torch.equal(last, unscored)
    # Where the last step is scored anyway, it is scored once.
    scores = iter([50.0, 40.0])
    _, result = run({**changes, "steps": 4}, dev_score=lambda: next(scores))
    assert [row["step"] for row in result.metrics if "dev_score" in row] == [2, 4]


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_job_ends_with_the_same_bits(tmp_path) -> None:
    every = {
        "checkpoint_every": 5,
        "early_stopping": STOPPING.model_copy(update={"every": 3, "patience": 9}),
    }
    whole, result = run(every, dev_score=lambda: 1.0)

    class Dying(Examples):
        def __getitem__(self, index: int) -> Example:
            if index == 7 * 4:
                raise Killed
            return super().__getitem__(index)

    checkpoint = Checkpoint(tmp_path / "checkpoint", {"a": 1})
    llm, method = prompt()
    with pytest.raises(Killed):
        train(
            llm, method, Dying(), training(**every), OBJECTIVE, lambda: 1.0, checkpoint=checkpoint
        )
    resumed, after = run(every, dev_score=lambda: 1.0, checkpoint=checkpoint)
    assert torch.equal(whole, resumed)
    assert [row["step"] for row in after.metrics] == [row["step"] for row in result.metrics]


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path) -> None:
    llm, method = prompt()
    optimizer = torch.optim.AdamW(method.parameters())
    Checkpoint(tmp_path, {"a": 1}).save(method, optimizer, {"x": 1})
    assert Checkpoint(tmp_path, {"a": 2}).load(method, optimizer) is None
    assert Checkpoint(tmp_path, {"a": 1}).load(method, optimizer) == {"x": 1}


def test_a_loss_that_is_no_number_stops_the_job() -> None:
    llm, method = prompt()
    method.prompt.data[0] = float("nan")
    with pytest.raises(UserError, match="step 0.*learning_rate"):
        train(llm, method, Examples(), TRAINING, OBJECTIVE)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_last_good_checkpoint_is_kept(tmp_path, what: str) -> None:
    llm, method = prompt()
    checkpoint = Checkpoint(tmp_path / "checkpoint", {})

    class Spoiling(Examples):
        def __getitem__(self, index: int) -> Example:
            if index == 7 * 4 and what == "loss":
                method.prompt.data[0] = float("nan")
            if index == 7 * 4 and what == "gradient":
                method.prompt.register_hook(lambda gradient: gradient * float("inf"))
            return super().__getitem__(index)

    every = training(checkpoint_every=1)
    with pytest.raises(UserError, match=f"step 7: the {what}.* kept in {checkpoint.path}"):
        train(llm, method, Spoiling(), every, OBJECTIVE, checkpoint=checkpoint)
    _, fresh = prompt()
    state = checkpoint.load(fresh, torch.optim.AdamW(fresh.parameters()))
    assert state["result"]["steps"] == 7
    assert fresh.prompt.isfinite().all()


def scarce(
    fails: Container[int], changes: dict | None = None, **options
) -> tuple[BuiltMethod, list[int], TrainingResult]:
    """Train a prompt whose forward pass runs out of memory at certain calls; tell their sizes."""
    sizes = []

    class ScarceMemory(PromptTuning):
        def contexts(self, llm, trained, demonstrations):
            sizes.append(len(demonstrations))
            if len(sizes) in fails:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().contexts(llm, trained, demonstrations)

    llm = random_llm()
    torch.manual_seed(0)
    method = built(llm, ScarceMemory(length=3))
    result = train(llm, method, Examples(), training(**(changes or {})), OBJECTIVE, **options)
    return method, sizes, result


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing(tmp_path, caplog) -> None:
    _, result = run({"batch_size": 6, "steps": 4})
    checkpoint = Checkpoint(tmp_path / "checkpoint", {})
    changes = {"batch_size": 6, "steps": 4, "checkpoint_every": 2}
    _, sizes, after = scarce({1, 3}, changes, checkpoint=checkpoint)
    assert sizes == [6, 3, 3] + 4 * 6 * [1]
    assert_same_metrics(result, after)
    assert [record.args for record in caplog.records if "memory" in record.message] == [
        (3, 6),
        (1, 6),
    ]
    _, sizes, _ = scarce((), changes | {"steps": 5}, checkpoint=checkpoint)
    assert sizes == 6 * [1]


def test_out_of_memory_with_one_example_is_the_end() -> None:
    with pytest.raises(UserError, match="one example does not fit the memory.*longest_context"):
        scarce(range(10))


def test_other_errors_are_told_as_they_are() -> None:
    class Broken(PromptTuning):
        def contexts(self, llm, trained, demonstrations):
            raise RuntimeError("shapes do not fit")

    llm = random_llm()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(llm, built(llm, Broken(length=3)), Examples(), TRAINING, OBJECTIVE)


def test_an_architecture_of_unknown_sizes_is_trained_all_the_same(monkeypatch, caplog) -> None:
    def unknown(body):
        raise ValueError("no matrices are known of a gpt2")

    prompt, counted = run()
    monkeypatch.setattr(operations, "layers_of", unknown)
    other, result = run()
    assert torch.equal(other, prompt)
    assert result.metrics == counted.metrics
    assert counted.flops > 0
    assert math.isnan(result.flops)
    [told] = [record.getMessage() for record in caplog.records if "operations" in record.msg]
    assert "no matrices are known of a gpt2" in told


def test_losses_between_two_lines_are_looked_at_too(tmp_path) -> None:
    """They are read together, and the first that is not finite is told."""
    llm, method = prompt()

    class Spoiling(Examples):
        def __getitem__(self, index: int) -> Example:
            if index == 5 * 4:
                method.prompt.data[0] = float("nan")
            return super().__getitem__(index)

    changes = {"log_every": 10, "checkpoint_every": 4, "early_stopping": None}
    checkpoint = Checkpoint(tmp_path / "checkpoint", {})
    with pytest.raises(UserError, match="step 5: the loss is nan"):
        train(llm, method, Spoiling(), training(**changes), OBJECTIVE, checkpoint=checkpoint)
    _, fresh = prompt()
    state = checkpoint.load(fresh, torch.optim.AdamW(fresh.parameters()))
    assert state["result"]["steps"] == 4
    assert fresh.prompt.isfinite().all()


def in_format(dtype: torch.dtype, scale: float = 1.0, architecture: str = "gpt2") -> tuple:
    """Train a prompt through an LLM of a number format, with a loss of a certain size."""
    llm = random_llm(architecture)
    llm.model.to(dtype)
    torch.manual_seed(0)
    method = build(llm, "prompt-tuning", length=3)
    changes = {"losses": Losses(pred=scale), "gradient_clip": 1e9, "steps": 4}
    result = train(llm, method, Examples(), training(**changes), OBJECTIVE)
    return method.prompt.detach().clone(), result


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "t5"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_frozen_llm_in_half_precision_teaches_the_same(dtype, architecture: str) -> None:
    _, exact = in_format(torch.float32, architecture=architecture)
    _, half = in_format(dtype, architecture=architecture)
    tolerance = 0.02 if dtype == torch.float16 else 0.1
    for row, other in zip(exact.metrics, half.metrics, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=tolerance)
        assert other["gradient_norm"] == pytest.approx(row["gradient_norm"], rel=3 * tolerance)


@pytest.mark.parametrize("scale", [1e-7, 1e4])
def test_gradients_neither_vanish_nor_overflow_in_float16(scale: float) -> None:
    # Without scaling the first are below what float16 can hold; with its first scale the others
    # are above.
    _, exact = in_format(torch.float32, scale)
    _, half = in_format(torch.float16, scale)
    assert half.metrics[0]["gradient_norm"] == pytest.approx(
        exact.metrics[0]["gradient_norm"], rel=0.02
    )
    assert [row["step"] for row in half.metrics] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("schedule", "last"), [("constant", 1.0), ("linear", 1 / 9), ("cosine", 0.0302)]
)
def test_learning_rate_schedules(schedule: str, last: float) -> None:
    settings = training(steps=10, schedule=schedule)
    factors = [learning_rate_factor(step, settings) for step in range(10)]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(last, abs=1e-3)
    slow = training(steps=10, warmup_fraction=0.5)
    assert [learning_rate_factor(step, slow) for step in range(5)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0]
    )
