"""Operations of making a context, in closed form, against those that PyTorch counts of it."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from helpers.architectures import ARCHITECTURES, tiny, words
from helpers.models import (
    build,
    built,
    t5_configuration,
    with_plain_products,
)
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForSeq2SeqLM

from mend.data.demonstrations import Demonstrations
from mend.methods.base import Method
from mend.methods.built import BuiltMethod
from mend.methods.mend import Mend
from mend.methods.task_vector import asked
from mend.models.distiller import DistillerModel, distilling_part
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import frozen_llm

#: Shorter than any window, which PyTorch does not see.
SHOWN = Demonstrations([(words(3, seed), words(1 + seed % 2, 50 + seed)) for seed in range(3)])
TOLERANCE = 2e-3  # as of the steps of a training


def llm_of(name: str, **options) -> FrozenLLM:
    """Return an architecture's LLM."""
    return frozen_llm(with_plain_products(tiny(ARCHITECTURES[name])), None, **options)


def a_t5(query_in: str) -> FrozenLLM:
    """Return a T5 in one of its layouts."""
    model = AutoModelForSeq2SeqLM.from_config(t5_configuration(32))
    return frozen_llm(with_plain_products(model), None, query_in=query_in)


def distilling(llm: FrozenLLM, backbone: torch.nn.Module, part: str | None = None) -> BuiltMethod:
    """Return MEND with a distiller around this backbone."""
    backbone = with_plain_products(backbone.float())
    made = DistillerModel(distilling_part(backbone, part), 3, llm.width)

    class OfATest(Mend):
        def trained(self, llm, run):
            return {"distiller": made}

    return built(llm, OfATest(length=3)).eval()


def share(llm: FrozenLLM, method: BuiltMethod, shown: Demonstrations = SHOWN) -> float:
    """Return what is computed to be needed, as a share of what PyTorch counts."""
    with FlopCounterMode(display=False) as counter:
        method.contexts(llm, [shown])
    return method.making_operations(shown) / counter.get_total_flops()


@pytest.mark.parametrize("prefix", [[], [1]])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("kv-cache", {}),
        ("key-norm", {"keep": 4}),
        ("snapkv", {"keep": 5}),
        ("snapkv", {"keep": 50}),
    ],
)
@pytest.mark.parametrize("name", ["gpt2", "falcon, old", "llama 3", "mixtral", "deepseek v3"])
def test_keys_and_values_cost_one_reading(name, method, settings, prefix) -> None:
    if (name, settings) == ("deepseek v3", {"keep": 5}):
        pytest.skip("it makes keys of all that came before again, for each part of a text")
    llm = llm_of(name, prefix=prefix)
    assert share(llm, build(llm, method, **settings)) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("prefix", [[], [1]])
@pytest.mark.parametrize("name", ["gpt2", "llama 3", "qwen2", "gemma 3", "deepseek v3"])
def test_self_information_costs_a_reading_and_logits(name: str, prefix: list[int]) -> None:
    llm = llm_of(name, prefix=prefix)
    method = build(llm, "selective-context", keep=4)
    assert share(llm, method) == pytest.approx(1, abs=TOLERANCE)
    assert method.making_operations([]) == 0
    assert (method.making_operations([5]) == 0) == (not prefix)


@pytest.mark.parametrize("query_in", ["decoder", "encoder"])
def test_a_t5_reads_a_text_that_it_chooses_from_in_its_decoder(query_in: str) -> None:
    llm = a_t5(query_in)
    method = build(llm, "selective-context", keep=4)
    assert share(llm, method) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama 3", "qwen2", "gemma 3", "mixtral"])
def test_a_distiller_makes_one_pass(name: str) -> None:
    llm = llm_of(name)
    backbone = AutoModel.from_config(llm.model.config)
    assert share(llm, distilling(llm, backbone)) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_each_part_of_a_t5_distils(part: str) -> None:
    llm = a_t5("decoder")
    backbone = AutoModel.from_config(t5_configuration(24))
    assert share(llm, distilling(llm, backbone, part)) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize(("method", "settings"), [("vanilla-icl", {}), ("zero-shot", {})])
def test_tokens_cost_nothing_to_make(method: str, settings: dict) -> None:
    llm = llm_of("gpt2")
    assert build(llm, method, **settings).making_operations(SHOWN) == 0


@pytest.mark.parametrize("name", ["gpt2", "llama 3", "qwen2"])
def test_a_task_vector_costs_the_texts_that_are_asked(name: str) -> None:
    for prefix in ([], [1]):
        llm = llm_of(name, prefix=prefix)
        method = build(llm, "task-vector", layer=1)
        # One query: several are padded, which PyTorch alone counts.
        alone = Demonstrations([(words(3, 1), words(1, 2)), (words(3, 3), words(1, 4))])
        read = method.making_operations(alone)
        with FlopCounterMode(display=False) as counter:
            for text in asked(alone, bool(prefix))[0]:
                llm.body(torch.tensor([[*prefix, *text]]))
        assert read == pytest.approx(counter.get_total_flops(), rel=TOLERANCE)


#: All of a size: padding is counted by PyTorch alone.
FEW, MANY = (
    Demonstrations([(words(2, seed), words(1, 50 + seed)) for seed in range(count)])
    for count in (3, 18)
)


@pytest.mark.parametrize("shown", [FEW, MANY, FEW.last(3)])
@pytest.mark.parametrize("name", ["gpt2", "llama 3", "falcon, old"])
def test_a_cartridge_costs_its_teacher_and_its_steps(name: str, shown: Demonstrations) -> None:
    llm = llm_of(name, prefix=[1])
    method = build(llm, "cartridge", length=5, steps=3)
    # Two layers, through the first of which gradients do not go.
    assert 1 - TOLERANCE < share(llm, method, shown) < 1.2
    of_the_teacher = build(llm, "cartridge", length=5, steps=0)
    assert share(llm, of_the_teacher, shown) == pytest.approx(1, abs=TOLERANCE)


def test_sizes_that_are_not_found_are_told_once_and_are_no_number(caplog) -> None:
    llm = llm_of("gpt2")
    method = build(llm, "kv-cache")
    llm.body = torch.nn.Sequential(torch.nn.ReLU())
    with caplog.at_level(logging.WARNING):
        assert math.isnan(method.making_operations(SHOWN))
        assert math.isnan(method.making_operations(SHOWN))
    told = [record.getMessage() for record in caplog.records]
    assert [message.startswith("operations of making contexts") for message in told] == [True]


def test_a_method_that_does_not_say_is_not_free() -> None:
    class Silent(Mend):
        making_operations = Method.making_operations

    llm = llm_of("gpt2")
    assert math.isnan(Silent(length=2).making_operations(llm, None, [1, 2]))
    assert build(llm, "prompt-tuning", length=2).making_operations([1, 2]) == 0
