"""Operations that steps need, in closed form, against those that PyTorch counts of real steps."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from helpers.architectures import ARCHITECTURES, WINDOW, tiny, words
from helpers.models import OBJECTIVE, built, t5_configuration, with_plain_products
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForSeq2SeqLM

from mend.configuration.specs.training import Losses
from mend.data.examples import Example
from mend.methods.base import Method
from mend.methods.mend import Mend
from mend.methods.prompt_tuning import PromptTuning
from mend.models.distiller import DistillerModel, distilling_part
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import frozen_llm
from mend.models.operations import TRAINED, layers_of
from mend.training.losses import example_losses, teacher_states
from mend.training.operations import TrainingOperations, measured_peak

LENGTH = 3
#: Shorter than the window, all of it: what PyTorch counts has no windows.
EXAMPLE = Example(words(8, 1), words(6, 2), [(words(3, 3), words(2, 4))])


class Prompt(PromptTuning):
    """A prompt that needs no tokenizer."""

    def trained(self, llm, run):
        """Return the first embeddings."""
        return {"prompt": nn.Parameter(llm.embedding.weight[: self.length].detach().clone())}


def tiny_llm(name: str, **options) -> FrozenLLM:
    """Return the LLM of an architecture, with plain products."""
    return frozen_llm(with_plain_products(tiny(ARCHITECTURES[name])), None, **options)


def distilling(llm: FrozenLLM, backbone: nn.Module, part: str | None = None):
    """Return a method whose distiller is around this backbone."""
    made = DistillerModel(distilling_part(with_plain_products(backbone), part), LENGTH, llm.width)

    class OfATest(Mend):
        def trained(self, llm, run):
            return {"distiller": made}

    return built(llm, OfATest(length=LENGTH)).eval()


def own_backbone(llm: FrozenLLM) -> nn.Module:
    """Return a random model of an LLM's own architecture and sizes."""
    return AutoModel.from_config(llm.model.config, attn_implementation="eager").float()


def share(llm, method, losses: Losses, stage="finetune", objective=OBJECTIVE, example=EXAMPLE):
    """Return what is computed to be needed, as a share of what PyTorch counts of a step."""
    needed = TrainingOperations(llm, method, losses, stage, objective)([example])
    with FlopCounterMode(display=False) as counter:
        values = example_losses(llm, method, [example], losses, stage, objective)
        sum(values.values()).backward()
    return needed / counter.get_total_flops()


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "gpt-neo",
        "gpt-neox",
        "gptj",
        "opt",
        "opt, projected",
        "bloom",
        "falcon, old",
        "falcon, new",
        "mpt",
        "llama 3",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma 3",
        "phi",
        "olmo 2",
        "cohere",
        "deepseek v3",
        "gpt-oss",
        "t5",
        "t5 v1.1",
        "umt5",
    ],
)
def test_needed_operations_are_those_that_pytorch_counts(name):
    if not ARCHITECTURES[name].exists:
        pytest.skip("not in this transformers")
    llm = tiny_llm(name)
    every = Losses(distill=1.0, clm=1.0, pred=1.0)
    assert share(llm, distilling(llm, own_backbone(llm)), every) == pytest.approx(1, abs=2e-3)
    prompt = built(llm, Prompt(length=LENGTH)).eval()
    assert share(llm, prompt, Losses(pred=1.0)) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("query_in", ["decoder", "encoder"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_each_part_and_layout_of_a_t5_is_counted(query_in, part, stage):
    llm = frozen_llm(
        with_plain_products(AutoModelForSeq2SeqLM.from_config(t5_configuration(32))),
        None,
        query_in=query_in,
    )
    # Narrower than the LLM: its vectors are projected.
    method = distilling(llm, AutoModel.from_config(t5_configuration(24)), part)
    losses = Losses(distill=1.0) if stage == "pretrain" else Losses(distill=1.0, pred=1.0)
    example = (
        EXAMPLE if stage == "finetune" else Example(words(8, 1), words(6, 2), [(words(5, 3), [])])
    )
    assert share(llm, method, losses, stage, example=example) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("covered", ["input", "input-and-output"])
@pytest.mark.parametrize(
    "losses", [Losses(distill=1.0), Losses(distill=1.0, pred=1.0), Losses(distill=1.0, clm=1.0)]
)
def test_the_head_is_counted_where_a_loss_needs_it(losses, covered, first):
    llm = tiny_llm("gpt2", prefix=[1])
    changed = {"distill_first_token": first, "distill_in_finetuning": covered}
    objective = OBJECTIVE.model_copy(update=changed)
    method = built(llm, Prompt(length=LENGTH)).eval()
    found = share(llm, method, losses, objective=objective)
    if losses == Losses(distill=1.0) or (covered == "input-and-output" and first):
        assert found == pytest.approx(1, abs=1e-9)
    else:  # where another loss has the student's logits, the teacher's are made, too
        assert 0.98 < found < 1 + 1e-9


def test_of_a_teacher_whose_states_are_kept_the_head_alone_is_counted():
    llm = tiny_llm("gpt2")
    method = built(llm, Prompt(length=LENGTH)).eval()
    [states] = teacher_states(llm, [EXAMPLE], "finetune")
    kept = Example(EXAMPLE.demonstrations, EXAMPLE.teacher_demonstrations, EXAMPLE.queries, states)
    losses = Losses(distill=1.0)
    assert share(llm, method, losses, example=kept) == pytest.approx(1, abs=1e-9)
    count = TrainingOperations(llm, method, losses, "finetune", OBJECTIVE)
    layers, width, tokens = 2, 32, 6 + 3 + 2 - 1
    saved = layers * tokens * (2 * 12 * width**2 + 4 * width * tokens)
    assert count([EXAMPLE]) - count([kept]) == saved


def test_every_query_is_a_row_and_demonstrations_are_distilled_once():
    llm = tiny_llm("llama 3")
    method = distilling(llm, own_backbone(llm))
    count = TrainingOperations(llm, method, Losses(distill=1.0), "finetune", OBJECTIVE)
    one, other = (EXAMPLE.queries[0], (words(6, 5), words(1, 6)))

    def of(*queries) -> float:
        return count([Example(EXAMPLE.demonstrations, EXAMPLE.teacher_demonstrations, queries)])

    assert of(one, other) - of(one) == of(other) - of()
    assert of() == count.distillers[0].operations(len(EXAMPLE.demonstrations), TRAINED)
    assert count([EXAMPLE, EXAMPLE]) == 2 * of(one)


def test_a_sliding_window_limits_attention():
    tokens = 3 * WINDOW
    example = Example([], [], [(words(tokens - LENGTH, 3), words(1, 4))])

    def needed(name: str) -> float:
        llm = tiny_llm(name)
        method = built(llm, Prompt(length=LENGTH))
        return TrainingOperations(llm, method, Losses(pred=1.0), "finetune", OBJECTIVE)([example])

    layers, width = 2, 32
    # Of the same matrices but for keys and values: half as many heads of the windowed one have any.
    grouped = 2 * 2 * tokens * layers * width * width
    hidden = 3 * 4 * layers * width * tokens * (tokens - WINDOW)
    assert needed("llama 2") - needed("mistral") == grouped + hidden


def test_windows_are_those_of_each_layer():
    layer = 4 * 32
    for name, attention in (
        ("gemma 3", {WINDOW: layer, math.inf: layer}),
        ("gpt-neo", {WINDOW: layer, math.inf: layer}),
        ("qwen2", {WINDOW: layer, math.inf: layer}),
        ("mistral", {WINDOW: 2 * layer}),
        ("llama 3", {math.inf: 2 * layer}),
    ):
        assert layers_of(tiny_llm(name).body).attention == attention


class Unknown(Method):
    """Vectors of which nothing is said."""

    display_name = "Unknown"

    def trained(self, llm, run):
        """Return one vector."""
        return {"words": nn.Parameter(llm.embedding.weight[:1].detach().clone())}


class Mapped(Prompt):
    """Vectors by a matrix of its own."""

    def trained(self, llm, run):
        """Return a prompt and a matrix."""
        return {**super().trained(llm, run), "map": nn.Linear(4, 4)}


@pytest.mark.parametrize(
    ("method", "words_of_it"),
    [(Unknown(), "does not say how many vectors"), (Mapped(length=2), "besides a distiller's")],
)
def test_what_is_not_known_is_told_once_and_not_a_number(caplog, method, words_of_it):
    llm = tiny_llm("gpt2")
    with caplog.at_level(logging.WARNING):
        count = TrainingOperations(llm, built(llm, method), Losses(pred=1), "finetune", OBJECTIVE)
        assert math.isnan(count([EXAMPLE]))
        assert math.isnan(count([EXAMPLE]))
    assert [words_of_it in record.getMessage() for record in caplog.records] == [True]


def test_an_architecture_whose_sizes_are_not_found_is_trained_all_the_same(caplog):
    llm = tiny_llm("gpt2")
    llm.body = nn.Sequential(nn.ReLU())
    with caplog.at_level(logging.WARNING):
        count = TrainingOperations(
            llm, built(llm, Prompt(length=2)), Losses(pred=1), "finetune", OBJECTIVE
        )
    assert math.isnan(count([EXAMPLE]))
    assert "neither operations nor utilisation will be known" in caplog.text


def test_a_peak_is_measured_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    assert measured_peak(torch.device("cpu"), torch.float32) > 1e8
    assert torch.equal(torch.get_rng_state(), before)


def test_each_option_of_a_choice_is_read_and_scored():
    llm = tiny_llm("gpt2")
    method = built(llm, Prompt(length=LENGTH)).eval()
    asked = replace(EXAMPLE, others=[[[7], [8, 9, 10]]])  # beside the right one, of two tokens
    count, alone = (
        TrainingOperations(llm, method, losses, "finetune", OBJECTIVE)([asked])
        for losses in (Losses(pred=1.0, choice=1.0), Losses(pred=1.0))
    )
    layers, width, head = 2, 32, llm.model.get_output_embeddings().weight.numel()
    read = [LENGTH + 3 + option - 1 for option in (2, 1, 3)]
    weights, attention = 2 * 12 * width**2, 4 * width
    rows = layers * sum(each * (2 * weights + 3 * attention * each) for each in read)
    assert count - alone == rows + 4 * head * (2 + 1 + 3)
