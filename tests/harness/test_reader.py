"""What methods read of prompts, without the harness."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers.models import READING, random_llm

from mend.errors import UserError
from mend.harness.prompts import Demonstration, Prompt
from mend.harness.reader import PromptReader
from mend.library.context import Context
from mend.models.frozen_llm import FrozenLLM
from mend.models.generation import generate
from mend.models.loading import frozen_llm

SETS = ((("w1", "w2"), ("w3", "w4 w5")), (("w6", "w7"), ("w8", "w9")))


def prompt(number: int, query: str, description: str = "") -> Prompt:
    shown = tuple(Demonstration(input, " ", output, " ") for input, output in SETS[number])
    return Prompt(description, shown, query, " ")


class Vectors:
    """A method whose vectors are random, each set's its own."""

    def __init__(self, llm: FrozenLLM, fits: bool = True, reads: bool = True) -> None:
        self.llm, self.fits = llm, fits
        self.built = SimpleNamespace(reads_demonstrations=reads)
        self.asked: list = []

    def distill(self, demonstrations) -> Context:
        return self.distill_many([demonstrations])[0]

    def distill_many(self, sets, truncate: bool = False) -> list[Context]:
        if not (self.fits or truncate):
            raise UserError("1 of 2 do not fit")
        self.asked += sets
        return [self.context(one) for one in sets]

    def context(self, shown) -> Context:
        generator = torch.Generator().manual_seed(sum(map(ord, str(shown))))
        vectors = torch.randn(1, 3, self.llm.width, generator=generator)
        return Context(self.llm, self.llm.vector_context(vectors), READING, "vectors")


def ids(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("kind", ["vectors", "text"])
@torch.no_grad()
def test_continuations_come_after_their_own_demonstrations(architecture, kind) -> None:
    llm = random_llm(architecture)
    method = Vectors(llm)
    reader = PromptReader(llm, method if kind == "vectors" else None)
    prompts = [prompt(0, "w11 w12"), prompt(1, "w13"), prompt(0, "w11 w12"), prompt(0, "w14")]
    texts = [" w20", " w21 w22", " w23 w24", " w25"]
    found = reader.log_likelihoods(prompts, texts)
    for one, text, value in zip(prompts, texts, found, strict=True):
        before, after = ids(one.query), ids(text)
        if kind == "vectors":
            content = method.context([d[:3:2] for d in one.demonstrations]).content
        else:
            content = llm.token_context([ids(one.text()[: -len(one.query)])])
        if architecture == "t5":  # the encoder reads demonstrations, the decoder the rest
            [encoded] = llm.embeddings(content, [0], [[]])
            inputs = {"decoder_input_ids": torch.tensor([[0, *before, *after]])}
        else:
            [encoded], inputs = llm.embeddings(content, [0], [before + after]), {}
        inputs["inputs_embeds"] = encoded[None]
        logs = llm.model(**inputs).logits[0, -len(after) - 1 : -1].log_softmax(-1)
        expected = sum(row[token].item() for row, token in zip(logs, after, strict=True))
        assert value.total == pytest.approx(expected, abs=1e-4)
    assert reader.distilled == len(method.asked) == (2 if kind == "vectors" else 0)


def test_text_and_vectors_are_read_side_by_side() -> None:
    llm = random_llm()
    reader = PromptReader(llm, Vectors(llm))
    bare = Prompt("", (), "w11 w12", " ")
    mixed = reader.log_likelihoods([bare, prompt(0, "w11 w12"), None], [" w20"] * 3)
    alone = PromptReader(llm).log_likelihoods([bare, None], [" w20"] * 2)
    assert [mixed[0].total, mixed[2].total] == pytest.approx([one.total for one in alone], abs=1e-4)
    assert mixed[1].total != pytest.approx(mixed[0].total, abs=1e-3)


def test_the_description_stays_text_after_the_vectors() -> None:
    llm = random_llm()
    reader = PromptReader(llm, Vectors(llm))
    described = reader.log_likelihoods([prompt(0, "w12", "w30 w31 ")], [" w20"])
    assert described == reader.log_likelihoods([prompt(0, "w30 w31 w12")], [" w20"])


def test_a_method_that_reads_no_demonstrations_has_one_context() -> None:
    llm = random_llm()
    method = Vectors(llm, reads=False)
    prompts = [prompt(0, "w11"), prompt(1, "w11"), Prompt("", (), "w11", " ")]
    found = PromptReader(llm, method).log_likelihoods(prompts, [" w20"] * 3)
    assert [one.total for one in found[1:]] == pytest.approx([found[0].total] * 2, abs=1e-5)
    assert found[0].total != PromptReader(llm).log_likelihoods(prompts[2:], [" w20"])[0].total


def test_demonstrations_that_do_not_fit_are_left_out_and_told(caplog) -> None:
    llm = random_llm()
    with caplog.at_level("WARNING", logger="mend"):
        PromptReader(llm, Vectors(llm, fits=False)).log_likelihoods([prompt(0, "w1")], [" w2"])
    assert "1 of 2 do not fit. Here, what does not fit is left out" in caplog.text


@torch.no_grad()
def test_without_any_text_a_token_stands_in_front_as_in_the_harness() -> None:
    llm = random_llm()
    assert llm.tokenizer.eos_token_id == 60
    [found] = PromptReader(llm).log_likelihoods([None], ["w20 w21"])
    logs = llm.model(torch.tensor([[60, 20]])).logits[0].log_softmax(-1)
    assert found.total == pytest.approx((logs[0, 20] + logs[1, 21]).item(), abs=1e-4)
    prefixed = frozen_llm(llm.model, llm.tokenizer, prefix=[5])
    [found] = PromptReader(prefixed).log_likelihoods([None], ["w20"])
    first = llm.model(torch.tensor([[5]])).logits[0, 0].log_softmax(-1)
    assert found.total == pytest.approx(first[20].item(), abs=1e-4)


def test_an_encoder_gets_demonstrations_of_text_when_text_is_written(monkeypatch) -> None:
    llm = random_llm("t5")
    asked = []

    def noted(llm, contexts, owner, queries, **options):
        asked.append((contexts.tokens, owner, queries))
        return generate(llm, contexts, owner, queries, **options)

    monkeypatch.setattr("mend.harness.reader.generate", noted)
    prompts = [prompt(0, "w11", "w30 "), prompt(1, "w11", "w30 "), prompt(0, "w12")]
    PromptReader(llm).generate(prompts, 8, [])
    sets = [ids(" ".join(part for pair in shown for part in pair)) for shown in SETS]
    # Prompts of one set come together.
    assert asked == [(sets, [0, 0, 1], [[30, 11], [12], [30, 11]])]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_writing_ends_at_a_stop(architecture) -> None:
    llm = random_llm(architecture)
    method = Vectors(llm)
    reader = PromptReader(llm, method)
    prompts = [prompt(0, "w11 w12"), prompt(1, "w13"), prompt(0, "w14 w15 w16")]
    whole = reader.generate(prompts, 12, [])
    for one, text in zip(prompts, whole, strict=True):
        content = method.context([d[:3:2] for d in one.demonstrations]).content
        [expected] = generate(llm, content, [0], [ids(one.query)], max_new_tokens=12)
        assert text == llm.tokenizer.decode(expected, skip_special_tokens=True)
    stop = whole[0].split()[3]
    sizes = []
    decode = llm.tokenizer.batch_decode
    llm.tokenizer.batch_decode = lambda rows, **options: (
        sizes.append(len(rows)) or decode(rows, **options)
    )
    [text] = reader.generate(prompts[:1], 12, [stop])
    assert text.partition(stop)[0] == whole[0].partition(stop)[0]
    assert len(sizes) == whole[0].split().index(stop) + 1


def test_a_prompt_without_room_is_refused_and_a_long_one_loses_its_beginning() -> None:
    llm = random_llm()
    reader = PromptReader(llm)
    long = Prompt("", (), "w1 " * 100 + "w2 w3", " ")
    [cut] = reader.generate([long], 10, [])
    [short] = reader.generate([Prompt("", (), "w1 " * 84 + "w2 w3", " ")], 10, [])
    assert cut == short
    with pytest.raises(UserError, match="96 new tokens leave no room"):
        reader.generate([long], 96, [])
