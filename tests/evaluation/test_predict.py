"""The prediction job: what it refuses, and what its file says that it was made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from helpers.jobs import prediction, specification

from mend.configuration.methods import method_class
from mend.configuration.specs.prediction import PredictionSpec
from mend.configuration.specs.run import MethodSource
from mend.errors import UserError
from mend.evaluation import predict
from mend.evaluation.predict import items_for, run_prediction
from mend.methods.built import build_method
from mend.models.loading import load_llm
from mend.models.operations import ReadingOperations


@pytest.fixture
def spec(data: Path, tmp_path: Path) -> PredictionSpec:
    """What a job of zero-shot is told."""
    told = prediction(specification(tmp_path, "gpt2", "mend", stage="finetune"))
    return told.model_copy(update={"method": MethodSource(name="zero-shot"), "distiller": None})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_refused_where_it_is_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: PredictionSpec, value: float
) -> None:
    def scores(llm, method, items, *others, **more) -> list[list[float]]:
        return [[-1.0, value if number == 2 else -2.0] for number, _ in enumerate(items)]

    monkeypatch.setattr(predict, "score_items", scores)
    output = tmp_path / "predictions.parquet"
    with pytest.raises(
        UserError, match="task parity, seed 13, row 2: an option's score is not fin"
    ):
        run_prediction(spec, data / "test.parquet", data / "tasks", output, None)
    assert not output.exists()


def test_predictions_say_what_they_were_made_of(
    data: Path, tmp_path: Path, spec: PredictionSpec
) -> None:
    output = tmp_path / "predictions.parquet"
    run_prediction(spec, data / "test.parquet", data / "tasks", output, None)
    found = json.loads(pyarrow.parquet.read_metadata(output).metadata[b"mend"])
    files = {data / "test.parquet", data / "tasks/parity.parquet"}
    sums = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert set(found.values()) == sums
    assert {(tmp_path / name).resolve() for name in found} == {file.resolve() for file in files}


#: Methods that train nothing, of each kind of context, with their settings.
UNTRAINED = {
    "zero-shot": {},
    "vanilla-icl": {},
    "selective-context": {"keep": 6},
    "key-norm": {"keep": 6},
    "task-vector": {"layer": 1},
}


@pytest.mark.parametrize("name", UNTRAINED)
def test_predictions_say_what_each_context_takes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: PredictionSpec, name: str
) -> None:
    source = MethodSource(name=name, settings=UNTRAINED[name])
    spec = spec.model_copy(update={"method": source})
    kind = method_class(name)
    monkeypatch.setattr(
        kind, "making_operations", lambda self, llm, trained, shown: 3.0 * len(shown)
    )
    output = tmp_path / "predictions.parquet"
    run_prediction(spec, data / "test.parquet", data / "tasks", output, None)
    found = pyarrow.parquet.read_table(output).to_pylist()

    llm = load_llm(spec.llm)
    method = build_method(llm, spec)
    _, items = items_for(
        llm, method, data / "test.parquet", data / "tasks", "test", spec.predict.tasks
    )
    for row, item in zip(found, items, strict=True):
        context = method.contexts(llm, [item.demonstrations])
        assert row["context_length"] == context.lengths[0]
        assert row["context_bytes"] == context.nbytes[0]
        assert row["making_flops"] == 3 * len(item.demonstrations)
        options = list(map(len, item.options))
        expected = ReadingOperations(llm)(context, 0, len(item.query), options)
        assert row["reading_flops"] == expected > 0
