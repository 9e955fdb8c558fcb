"""Texts as vectors: a language model's mean states, or a library that is asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from helpers.models import random_llm

from mend.configuration.specs.evaluation_episodes import DenseRetrieval
from mend.errors import UserError
from mend.models.text_embedding import load_embedder


def test_a_language_model_embeds_by_the_mean_of_its_last_states(tmp_path: Path) -> None:
    llm = random_llm()
    llm.model.save_pretrained(tmp_path)
    llm.tokenizer.save_pretrained(tmp_path)
    embed = load_embedder(DenseRetrieval(kind="language-model", model=str(tmp_path)))
    texts = ["w1", "w5 w6 w7 w8", "w9 w3", "", " ".join(["w4"] * 200)]
    for text, vector in zip(texts, embed(texts), strict=True):
        ids = torch.tensor([llm.tokenizer(text)["input_ids"][:96]], dtype=torch.long)
        if ids.shape[1]:
            [states] = llm.model.base_model(ids).last_hidden_state
            assert vector == pytest.approx(states.mean(0).numpy(), abs=1e-5)
        else:
            assert not vector.any()


def test_sentence_transformers_is_used_where_it_is_asked_for(monkeypatch) -> None:
    def encoder(model, revision, trust_remote_code, model_kwargs):
        assert (model, revision) == ("hub/name", "abc")
        assert trust_remote_code is False
        assert model_kwargs == {"use_safetensors": True}
        return SimpleNamespace(
            encode=lambda texts, **_: numpy.array([[len(text), 1.0] for text in texts])
        )

    library = SimpleNamespace(SentenceTransformer=encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    dense = DenseRetrieval(kind="sentence-transformers", model="hub/name", revision="abc")
    assert load_embedder(dense)(["aaaa", "a"]).tolist() == [[4, 1], [1, 1]]


def test_what_cannot_be_used_is_told(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="pip install sentence-transformers"):
        load_embedder(DenseRetrieval(kind="sentence-transformers", model="x"))
    with pytest.raises(UserError, match=r"benchmark\.dense_retrieval.*nowhere"):
        load_embedder(DenseRetrieval(kind="language-model", model=str(tmp_path / "nowhere")))
