"""Task vectors: differences of states, beside plain passes of one row at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.architectures import ARCHITECTURES, both, installed
from helpers.jobs import prediction, specification
from helpers.models import build, random_llm, random_tokens

from mend.configuration.specs.run import MethodSource
from mend.data.demonstrations import Demonstrations, pairs_of
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.predict import run_prediction
from mend.evaluation.scoring import score_items
from mend.methods.task_vector import QUERIES

SHOWN = [
    Demonstrations([(random_tokens(2 + n, n), random_tokens(1, 20 + n)) for n in range(count)])
    for count in (6, 3, 1)
]
NAMES = ("gpt2", "opt", "llama 3", "qwen3", "gemma 2", "gpt-neox", "falcon, alibi", "bloom")


@pytest.mark.parametrize("prefix", [(), (1,)])
@pytest.mark.parametrize("name", installed({name: ARCHITECTURES[name] for name in NAMES}))
@torch.no_grad()
def test_vectors_are_differences_of_states(name: str, prefix: tuple) -> None:
    llm, plain = both(name, prefix)

    def state(tokens: list[int]) -> torch.Tensor:
        ids = torch.tensor([[*prefix, *tokens]])
        read = plain.model(input_ids=ids, output_hidden_states=True, use_cache=False)
        return read.hidden_states[1][0, -1]  # after block 0

    found = build(llm, "task-vector", layer=0).contexts(llm, SHOWN)
    assert found.lengths == [0, 0, 0]
    assert found.nbytes == [4 * llm.model.config.hidden_size] * 3
    for tokens, vector in zip(SHOWN, found.vectors[0], strict=True):
        pairs, differences = pairs_of(tokens), []
        for number in range(1, len(pairs)):
            if number < len(pairs) - QUERIES:
                continue
            before = []
            for other, (x, y) in enumerate(pairs):
                if other != number:
                    before += x + y
            query = pairs[number][0]
            differences.append(state(before + query) - state(query))
        expected = torch.stack(differences).mean(0) if differences else torch.zeros_like(vector)
        torch.testing.assert_close(vector, expected, atol=1e-4, rtol=1e-4)


def test_of_one_demonstration_it_is_zero_shot() -> None:
    llm = random_llm()
    items = [MultipleChoiceItem(0, SHOWN[2], [1, 2], [[3], [4, 5]])]
    expected = score_items(llm, build(llm, "zero-shot"), items)
    assert score_items(llm, build(llm, "task-vector", layer=1), items) == expected
    items = [MultipleChoiceItem(0, SHOWN[0], [1, 2], [[3], [4, 5]])]
    assert score_items(llm, build(llm, "task-vector", layer=1), items) != expected


def test_a_block_that_the_llm_has_not_is_told() -> None:
    llm = random_llm()
    with pytest.raises(UserError, match="no block 2 of width 16; its blocks are 0 to 1"):
        build(llm, "task-vector", layer=2).contexts(llm, SHOWN)
    llm = random_llm("t5")
    with pytest.raises(UserError, match="t5 cannot be changed as it reads"):
        build(llm, "task-vector", layer=0).contexts(llm, SHOWN)


def test_a_job_predicts_with_it(data: Path, tmp_path) -> None:
    spec = specification(tmp_path, "gpt2", "mend", stage="finetune", losses={"pred": 1.0})
    method = MethodSource(name="task-vector", settings={"layer": 0})
    spec = prediction(spec.model_copy(update={"method": method}))
    run_prediction(spec, data / "test.parquet", data / "tasks", tmp_path / "found.parquet", None)
    found = pyarrow.parquet.read_table(tmp_path / "found.parquet").to_pylist()
    assert {row["context_length"] for row in found} == {0}
    assert len({tuple(row["scores"]) for row in found}) > 1
