"""Attention behind the LLM's face, induction heads, and what they map_ at."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.jobs import SEED, specification
from helpers.models import random_llm
from matplotlib import pyplot

from mend.analysis.induction_heads import (
    AttentionMap,
    best_heads,
    induction_scores,
    max_pooled,
    run_attention,
    summaries,
)
from mend.configuration.specs.analysis import AttentionSpec
from mend.configuration.specs.run import RunSpec
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.methods.built import build_method
from mend.models.frozen_llm import Attentions
from mend.models.loading import load_llm
from mend.reporting.figures.attention import draw_attention, draw_heads


class HandMade:
    """An LLM of 2 layers of 3 heads: (1, 2) is an induction head, (0, 1) half of the time."""

    max_positions = 24
    vocabulary = 50

    def token_context(self, sequences):
        assert len(set(sequences[0])) == len(sequences[0]) == 12  # half of the positions
        return sequences

    def text_attentions(self, context, text):
        assert context == [text]  # the same sequence twice
        weights = torch.zeros(2, 3, 12, 12)
        for here, token in enumerate(text):
            where = text.index(token) + 1
            if where < 12:
                weights[1, 2, here, where] = 1
                weights[0, 1, here, where] = 0.5
            weights[0, 0, here, where - 1] = 1  # at the same token: no induction
        return Attentions(weights, torch.zeros(2, 3, 12, 12))


def test_a_hand_made_induction_head_is_found() -> None:
    scores = induction_scores(HandMade())
    expected = torch.zeros(2, 3)
    expected[1, 2], expected[0, 1] = 1, 0.5
    torch.testing.assert_close(scores, expected)
    assert best_heads(scores, 2) == [(1, 2), (0, 1)]
    assert len(best_heads(scores)) == 4


def test_pooling_takes_the_largest() -> None:
    attention = torch.arange(40.0)[None]
    assert max_pooled(attention).tolist() == [list(range(1, 40, 2))]
    assert max_pooled(attention[:, :16]).shape == (1, 16)


def test_means_are_over_rows_of_different_lengths() -> None:
    llm = random_llm()
    # Queries of 40, 3 and 2 tokens: the first is too long to be shown word by word.
    lengths = [(30, 40), (25, 3), (20, 2)]
    maps = [
        AttentionMap(torch.full((1, context), 0.01 * context), torch.full((1, query), 0.1))
        for context, query in lengths
    ]
    items = [MultipleChoiceItem(0, [], [7] * query, [[1]]) for _, query in lengths]
    rows = [{"task": name} for name in ("long", "first", "second")]
    table = pd.DataFrame(summaries(llm, rows, items, maps, [(0, 1)]))
    mean = table[table["kind"] == "mean"]
    assert list(mean.loc[mean["region"] == "context", "value"]) == pytest.approx([0.25] * 20)
    assert list(mean.loc[mean["region"] == "query", "position"]) == [-2, -1]
    share = table[table["kind"] == "share"]
    assert list(share["value"]) == pytest.approx([(9 + 6.25 + 4) / 3])
    example = table[table["kind"] == "example"]
    assert set(example["task"]) == {"first"}
    assert list(example.loc[example["region"] == "query", "token"]) == ["w7"] * 3


def with_weights(folder: Path, architecture: str, seed: int = SEED) -> AttentionSpec:
    """Return a job's specification, and save untrained weights of MEND for it."""
    run = specification(folder, architecture, "mend", stage="finetune")
    parts = {key: getattr(run, key) for key in RunSpec.model_fields}
    spec = AttentionSpec(
        **parts,
        scoring={"option_score": "mean"},
        attention={"partition": "class_to_class", "tasks": ["parity"], "seed": seed},
    )
    method = build_method(load_llm(spec.llm), spec)
    (folder / "mend").mkdir()
    method.save(folder / "mend/weights.safetensors")
    return spec


def test_from_files_to_pictures(data: Path, tmp_path: Path) -> None:
    outputs = []
    for architecture in ("gpt2", "t5"):
        folder = tmp_path / architecture
        folder.mkdir()
        spec = with_weights(folder, architecture)
        outputs.append(folder / "attention.parquet")
        run_attention(spec, data / "test.parquet", data / "tasks", folder / "mend", outputs[-1])
        table = pd.read_parquet(outputs[-1])
        assert (table["kind"] == "induction").sum() == 2 * 4
        mean = table[(table["kind"] == "mean") & (table["region"] == "context")]
        widths = mean.groupby("method")["position"].nunique()
        assert widths["mend"] == spec.method.settings["length"] == 2
        assert 9 <= widths["vanilla-icl"] <= 12
        assert set(mean["rows"]) == {6}
        example = table[(table["kind"] == "example") & (table["region"] == "query")]
        words = example[(example["method"] == "mend")].drop_duplicates("position")["token"]
        assert list(words)[-2:] == ["w1", "w6"]  # row 0 of the test split: 200
    draw_heads(outputs, tmp_path / "heads.png", tmp_path / "heads.parquet")
    assert len(pd.read_parquet(tmp_path / "heads.parquet")) == 2 * 2 * 4
    draw_attention(outputs, tmp_path / "attention.png", tmp_path / "attention.parquet")
    drawn = pd.read_parquet(tmp_path / "attention.parquet")
    assert set(drawn["kind"]) == {"mean", "share", "example"}
    for name in ("heads", "attention"):
        image = pyplot.imread(tmp_path / f"{name}.png")
        assert image[..., :3].std() > 0.1
        again = tmp_path / f"{name}-again.png"
        draw = draw_heads if name == "heads" else draw_attention
        draw(outputs, again, tmp_path / "again.parquet")
        assert again.read_bytes() == (tmp_path / f"{name}.png").read_bytes()


def test_a_seed_without_rows_is_told(data: Path, tmp_path: Path) -> None:
    spec = with_weights(tmp_path, "gpt2", seed=7)
    with pytest.raises(UserError, match="no test rows of parity for seed 7"):
        run_attention(
            spec, data / "test.parquet", data / "tasks", tmp_path / "mend", tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()
