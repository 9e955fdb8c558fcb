"""The frozen LLM: padding and caching must change nothing."""

from __future__ import annotations

import pytest
import torch
from helpers.models import CONFIGURATIONS, DISTILLING, READING, random_llm, random_tokens
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    GPTNeoConfig,
    MistralConfig,
    Qwen2Config,
)

from mend.analysis.profiling import LiveMemory
from mend.configuration.specs.run import DistillerSource, LLMSource
from mend.errors import UserError
from mend.models.architecture import max_positions
from mend.models.distiller import load_distiller
from mend.models.frozen_llm import FrozenLLM, Rows, _Float32Linear
from mend.models.loading import frozen_llm, load_llm, prefix_tokens

ARCHITECTURES = sorted(CONFIGURATIONS)


CONTEXTS = [random_tokens(length, seed=length) for length in (5, 12, 1)]
ROWS = Rows(
    owner=[0, 2, 1, 0],
    inputs=[random_tokens(length, seed=30 + length) for length in (2, 0, 4, 0)],
    targets=[random_tokens(length, seed=50 + length) for length in (7, 3, 6, 1)],
)


def plain_logits(llm: FrozenLLM, context: list[int], before: list[int], after: list[int]):
    """Logits that predict `after`, by a forward pass of one row."""
    tokens = [*llm.prefix, *context, *before, *after]
    return llm.model(torch.tensor([tokens])).logits[0, -len(after) - 1 : -1]


def assert_plain(llm: FrozenLLM, states: torch.Tensor, contexts: list[list[int]]) -> None:
    for row, (owner, before, after) in enumerate(ROWS):
        found = llm.logits(states[row, : len(after)])
        expected = plain_logits(llm, contexts[owner], before, after)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", [[], [7, 3]])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_ways_equal_plain_forward_passes(architecture: str, prefix: list[int]) -> None:
    llm = random_llm(architecture)
    llm.prefix = prefix
    words = llm.token_context(CONTEXTS)
    embedded = [llm.embedding(torch.tensor(tokens)) for tokens in CONTEXTS]
    padded = torch.nn.utils.rnn.pad_sequence(embedded, batch_first=True, padding_value=9.0)
    for context in (words, llm.vector_context(padded, words.lengths)):
        assert_plain(llm, llm.states(context, ROWS), CONTEXTS)
        prefilled = llm.prefill(context)
        for _ in range(2):  # what was prefilled stays as it is
            states = llm.states_after(prefilled, ROWS)
            assert_plain(llm, states, CONTEXTS)


@pytest.mark.parametrize("owner", [[0, 1], [1, 2], [2], [1, 1, 1], [2, 0, 0, 1]])
def test_keys_of_chosen_contexts_are_copied_for_one_layer_at_a_time(owner: list[int]) -> None:
    configuration = GPT2Config(
        vocab_size=61, n_positions=128, n_embd=16, n_layer=12, n_head=4, attn_pdrop=0.0
    )
    llm = frozen_llm(AutoModelForCausalLM.from_config(configuration), tokenizer=None)
    rows = Rows(owner, [[5]] * len(owner), [[7]] * len(owner))
    prefilled = llm.prefill(llm.token_context([random_tokens(100, seed) for seed in range(3)]))
    layer = 2 * prefilled.cache.layers[0].keys[0].nbytes * len(owner)
    with LiveMemory() as memory:
        prefilled.select(owner)
    assert memory.peak < layer / 10
    with torch.no_grad(), LiveMemory() as memory:
        llm.states_after(prefilled, rows)
    assert layer < memory.peak < 4 * layer


def test_after_an_empty_context_the_query_is_all() -> None:
    llm = random_llm()
    empty = llm.token_context([[], []])
    asked = Rows([0, 1], [ROWS.inputs[0]] * 2, ROWS.targets[:2])
    for states in (
        llm.states(empty, asked),
        llm.states_after(llm.prefill(empty), asked),
    ):
        for row in range(2):
            found = llm.logits(states[row, : len(ROWS.targets[row])])
            expected = plain_logits(llm, [], ROWS.inputs[0], ROWS.targets[row])
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_16_bit_llm_has_logits_in_float32() -> None:
    llm = random_llm("llama")
    weight = llm.model.lm_head.weight.detach().bfloat16()
    half = frozen_llm(llm.model.bfloat16(), llm.tokenizer)
    states = torch.randn(5, llm.width).bfloat16()
    logits = half.logits(states)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, states.float() @ weight.float().T)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_gradients_go_through_logits_in_float32(monkeypatch) -> None:
    monkeypatch.setattr(_Float32Linear, "ROWS", 16)  # the vocabulary in several parts
    llm = random_llm("llama")
    half = frozen_llm(llm.model.bfloat16(), llm.tokenizer)
    weight = half.model.lm_head.weight.float()
    states = torch.randn(5, llm.width).bfloat16().requires_grad_()
    plain = states.detach().clone().requires_grad_()
    half.logits(states).log_softmax(-1)[:, 3].sum().backward()
    (plain.float() @ weight.T).log_softmax(-1)[:, 3].sum().backward()
    torch.testing.assert_close(states.grad, plain.grad)


def test_a_model_that_looks_ahead_is_refused_by_name() -> None:
    configuration = BertConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configuration)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    with pytest.raises(UserError, match="bert cannot be used.*Encoder-only"):
        frozen_llm(model, None)


@pytest.mark.parametrize(
    ("configuration", "positions"),
    [
        (MistralConfig(max_position_embeddings=96, sliding_window=40), 96),
        (MistralConfig(max_position_embeddings=96, sliding_window=None), 96),
        (Qwen2Config(max_position_embeddings=96, sliding_window=40, use_sliding_window=True), 96),
        (Qwen2Config(max_position_embeddings=96, sliding_window=40), 96),
        (GPTNeoConfig(max_position_embeddings=96, window_size=40), 96),
        (GPT2Config(n_positions=96), 96),
    ],
)
def test_a_window_of_attention_does_not_limit_what_is_read(configuration, positions: int) -> None:
    assert max_positions(configuration) == positions


def test_no_weight_of_the_llm_is_trained() -> None:
    llm = random_llm()
    assert not any(parameter.requires_grad for parameter in llm.model.parameters())
    assert not llm.model.training


def test_an_unknown_model_is_refused_by_name(tmp_path) -> None:
    spec = LLMSource(
        name="x", path=str(tmp_path / "nowhere"), dtype="float32", local_files_only=True
    )
    with pytest.raises(UserError, match="nowhere"):
        load_llm(spec)


def saved(folder) -> None:
    llm = random_llm("llama")
    llm.model.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("model.safetensors", ""),
    ],
)
def test_a_damaged_file_is_told_as_that_of_a_model(file: str, content: str, tmp_path) -> None:
    saved(tmp_path)
    (tmp_path / file).write_text(content)
    spec = LLMSource(name="x", path=str(tmp_path), dtype="float32", local_files_only=True)
    with pytest.raises(UserError, match=f"cannot load the LLM '{tmp_path}'") as raised:
        load_llm(spec)
    assert len(str(raised.value).splitlines()) == 1
    if file.startswith("tokenizer"):  # it is missed in a distiller, too, and not taken for none
        source = DistillerSource(path=str(tmp_path), local_files_only=True, **dict(DISTILLING))
        with pytest.raises(UserError, match=f"the distiller '{tmp_path}': its tokenizer"):
            load_distiller(source, 2, READING, random_llm("llama"))


class Words:
    """A tokenizer of words, with and without what it puts before a text."""

    def __init__(self, before: list[int], bos: int | None) -> None:
        self.before, self.bos_token_id = before, bos

    def __call__(self, text: str, add_special_tokens: bool) -> dict:
        ids = [10 + ord(letter) for letter in text]
        return {"input_ids": [*self.before, *ids, 2] if add_special_tokens else ids}


@pytest.mark.parametrize(
    ("prefix", "before", "expected"),
    [
        ("auto", [1], [1]),
        ("auto", [], []),
        ("none", [1], []),
        ("bos", [], [7]),
        ("ab", [1], [107, 108]),
    ],
)
def test_what_stands_before_every_context(prefix, before, expected) -> None:
    assert prefix_tokens(Words(before, 7), prefix) == expected


def test_a_bos_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="prefix: bos, but the tokenizer has no such token"):
        prefix_tokens(Words([], None), "bos")
