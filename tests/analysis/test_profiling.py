"""Operations and memory: equal to what real models do, to formulas, and to the paper's figure 3."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers.models import (
    CONFIGURATIONS,
    DISTILLING,
    ENCODER_DECODERS,
    random_distiller,
    random_llm,
    t5_configuration,
    use_eager_attention,
)
from transformers import GPT2Config

from mend.analysis.profiling import (
    Lengths,
    LiveMemory,
    count_flops,
    fake_models,
    forward_flops,
    measure_memory,
    measure_seconds,
    one_query,
)
from mend.configuration.specs.run import DistillerSource

LENGTHS = Lengths(demonstrations=20, distilled=18, query=5, answer=2)


def configuration(architecture: str, width: int):
    if architecture in ENCODER_DECODERS:
        return t5_configuration(width, architecture)
    return CONFIGURATIONS[architecture](width)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
def test_counting_from_configurations_equals_counting_real_models(architecture: str) -> None:
    llm = random_llm(architecture, 16)
    distiller = random_distiller(llm, 8, length=3, architecture=architecture)
    distiller.requires_grad_(
        False
    )  # the counter stumbles on what could have a gradient and has none
    for model in (llm.model, distiller.backbone):
        use_eager_attention(model)
    config, small = configuration(architecture, 16), configuration(architecture, 8)
    tokens = partial(one_query, llm, llm.token_context, LENGTHS.demonstrations, LENGTHS)
    vectors = partial(
        one_query, llm, lambda ids: llm.vector_context(distiller(ids)), LENGTHS.distilled, LENGTHS
    )
    flops = forward_flops(config, LENGTHS)
    assert flops == count_flops(tokens)
    assert flops["distillation"] == 0 < flops["query"] < flops["context"]
    distilled = forward_flops(config, LENGTHS, vectors=3, distiller=small)
    assert distilled == count_flops(vectors)
    # Prompt tuning is MEND without the distillation.
    assert forward_flops(config, LENGTHS, vectors=3) == {**distilled, "distillation": 0}
    # Tensors without data take as many bytes as those with, but for masks that those may skip.
    cpu = torch.device("cpu")
    with fake_models(config, LENGTHS) as run:
        memory = measure_memory(run, cpu)
    assert memory == pytest.approx(measure_memory(tokens, cpu), rel=0.06)


def test_operations_of_a_gpt2_are_those_of_the_formula() -> None:
    width, layers, vocabulary = 16, 2, 61
    flops = forward_flops(configuration("gpt2", width), LENGTHS)
    read, query, answer = LENGTHS.demonstrations, LENGTHS.query, LENGTHS.answer
    # 12 weights for each width squared; scores and weighted values of every pair of positions.
    assert flops["context"] == layers * (24 * width**2 * read + 4 * width * read**2)
    # The answer's last token is predicted, never read.
    text = query + answer - 1
    after = text * (24 * width**2 + 4 * width * (read + text))
    assert flops["query"] == layers * after + 2 * width * vocabulary * answer


def test_the_papers_operations_are_those_of_three_options() -> None:
    """Figure 3, GPT-2 large, Class: 2.38, 0.58 and 0.68 TFLOPs.

    Within 4 per cent if each of three options is read with the whole context, with logits at all
    positions, and demonstrations are distilled once.
    """

    def whole(width: int, layers: int, tokens: int) -> float:
        return layers * (24 * width**2 * tokens + 4 * width * tokens**2)

    def three_options(context: int) -> float:
        tokens = context + 20
        return 3 * (whole(1280, 36, tokens) + 2 * 1280 * 50257 * tokens) / 1e12

    prompt = three_options(100)
    distillation = whole(768, 12, 469 + 100) / 1e12
    assert three_options(469) == pytest.approx(2.38, rel=0.04)
    assert prompt == pytest.approx(0.58, rel=0.04)
    assert prompt + distillation == pytest.approx(0.68, rel=0.04)
    # Ours reads less: a context once, with logits where an answer is predicted alone.
    large = GPT2Config(n_embd=1280, n_layer=36, n_head=20)
    lengths = Lengths(demonstrations=469, distilled=469, query=20, answer=1)
    mend = forward_flops(large, lengths, vectors=100, distiller=GPT2Config())
    assert mend["distillation"] / 1e12 == pytest.approx(distillation, rel=0.01)
    assert sum(forward_flops(large, lengths).values()) / 1e12 < three_options(469) / 3


def test_distillation_with_padding_costs_the_longest_context() -> None:
    config = configuration("gpt2", 16)
    settings = dict(DISTILLING) | {"placeholder_position": "after-padding"}
    padded = {"distiller_source": DistillerSource(path="x", **settings), "padded_length": 40}
    longest = Lengths(demonstrations=20, distilled=40, query=5, answer=2)
    made = {"vectors": 3, "distiller": config}
    counted = forward_flops(config, LENGTHS, **made, **padded)["distillation"]
    assert counted == forward_flops(config, longest, **made)["distillation"]
    assert counted > forward_flops(config, LENGTHS, **made)["distillation"]


def test_memory_is_that_of_living_tensors() -> None:
    weights = torch.ones(100)
    with LiveMemory() as memory:
        first = weights * 2
        view = first[10:].view(9, 10)
        assert memory.live == 400  # a view is no new memory, and weights are not counted
        second = view + 1
        assert memory.live == 760
        del first, view
        assert memory.live == 360
        weights.mul_(2)
        assert (memory.live, memory.peak) == (360, 760)
        del second
    assert memory.live == 0


def test_seconds_are_of_the_part_that_took_them() -> None:
    llm = random_llm()
    order = []

    def contexts(ids):
        order.append(len(ids[0]))
        return llm.token_context(ids)

    seconds = measure_seconds(partial(one_query, llm, contexts, 7, LENGTHS), llm.device)
    assert list(seconds) == ["distillation", "context", "query"]
    assert all(value > 0 for value in seconds.values())
    assert order == [7]


def test_what_changes_the_llm_costs_with_the_query() -> None:
    llm = random_llm()
    addition = llm.addition_context({1: torch.ones(1, llm.width)})
    run = partial(one_query, llm, lambda ids: addition, 7, LENGTHS)
    assert list(measure_seconds(run, llm.device)) == ["distillation", "context", "query"]
    memory = measure_memory(run, torch.device("cpu"))
    assert memory["query"] > memory["context"] == 0


def test_queries_in_the_encoder_pay_for_the_context_again() -> None:
    config = configuration("t5", 16)
    decoder, encoder = (
        forward_flops(config, LENGTHS, query_in=where) for where in ("decoder", "encoder")
    )
    assert encoder["context"] == 0 < decoder["context"]
    assert encoder["query"] > decoder["query"]
