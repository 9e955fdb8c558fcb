"""Free-form tasks: what is generated, where it ends, and how it is compared and averaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from helpers.jobs import SEED, prediction, specification
from helpers.models import READING, random_llm

from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
from mend.configuration.specs.free_form import FreeForm
from mend.configuration.specs.own_tasks import OwnTaskRows, OwnTasksSpec
from mend.configuration.specs.prediction import PredictionSettings, PredictionSpec
from mend.configuration.specs.reading import Separators
from mend.configuration.specs.run import MethodSource
from mend.configuration.specs.tasks import TasksSpec
from mend.data.evaluation_episodes import write_evaluation_episodes
from mend.data.items import read_items
from mend.data.own_tasks import write_own_tasks
from mend.data.tasks import import_tasks
from mend.data.template import Template
from mend.errors import UserError
from mend.evaluation.free_form import agreement, answered
from mend.evaluation.metrics import scores_by_task
from mend.evaluation.predict import run_prediction
from mend.evaluation.prediction_table import check_same_rows, read_predictions

TYPES = {"essay": "free-form", "kind": "classification"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Return a folder with the tasks essay, which is free-form, and kind, and their test rows."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = [
        {"text": f"w{i % 40 + 1} w{i % 7 + 2} w{i % 11 + 3}", "kind": ("w50", "w51 w52")[i % 2]}
        for i in range(40)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"rows": str(folder / "rows.jsonl"), "input": "{text}", "output": "{kind}"}
    own = OwnTasksSpec(
        tasks={
            "essay": OwnTaskRows(**columns, type="free-form"),
            "kind": OwnTaskRows(**columns),
        },
        train_tasks=[],
        test_tasks=["essay", "kind"],
        seeds=[SEED],
        shots=3,
        train_rows=4,
    )
    write_own_tasks(own, folder / "own")
    tasks = TasksSpec(train_tasks=[], test_tasks=["essay", "kind"], seeds=[SEED])
    import_tasks(tasks, folder, folder / "tasks", own_folder=folder / "own")
    episodes = EvaluationEpisodesSpec(
        tasks=["essay", "kind"],
        shots=3,
        seeds=[SEED],
        demonstrations_at_test="per-row",
        rows=6,
        seed=0,
    )
    write_evaluation_episodes(episodes, folder / "tasks", "test", folder / "test.parquet")
    return folder


def job(folder: Path, architecture: str, method: str, tasks: list[str]) -> PredictionSpec:
    """Return what a prediction job of a tiny model is told, with a separator that is a word."""
    told = prediction(specification(folder, architecture, "mend", stage="finetune"), tasks=tasks)
    separators = Separators(input_output=" ", demonstrations=" w9 ")
    free = {"essay": FreeForm(metric="f1", longest_answer=5)} if "essay" in tasks else {}
    return told.model_copy(
        update={
            "reading": told.reading.model_copy(update={"separators": separators}),
            "predict": told.predict.model_copy(update={"free_form": free}),
            "method": MethodSource(name=method),
            "distiller": None,
        }
    )


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
@pytest.mark.parametrize("method", ["zero-shot", "vanilla-icl"])
def test_predictions_keep_what_was_generated_beside_scores_of_options(
    mixed, tmp_path, architecture, method
) -> None:
    tables = {}
    for name, tasks in {"both": ["essay", "kind"], "kind": ["kind"]}.items():
        spec = job(tmp_path, architecture, method, tasks)
        output = tmp_path / f"{name}.parquet"
        run_prediction(spec, mixed / "test.parquet", mixed / "tasks", output, None, answered)
        tables[name] = pyarrow.parquet.read_table(output)
    rows = tables["both"].to_pylist()
    essays = [row for row in rows if row["task"] == "essay"]
    assert len(essays) == 6
    for row in essays:
        assert row["options"] == row["scores"] == []
        assert (row["gold"], row["tied"]) == (-1, False)
        assert row["output"] in ("w50", "w51 w52")
        assert row["reading_flops"] > row["making_flops"] == 0
        assert len(row["generated"].split()) <= 5
        assert "w9" not in row["generated"].split()
        assert row["f1"] == pytest.approx(agreement(row["generated"], row["output"]).f1)
    # Rows with options are as they would be without a free-form task.
    alone = tables["kind"]
    assert "generated" not in alone.column_names
    with_options = tables["both"].filter(pyarrow.compute.field("task") == "kind")
    for mine, other in zip(with_options.to_pylist(), alone.to_pylist(), strict=True):
        assert mine["scores"] == pytest.approx(other["scores"], abs=1e-5)
        assert mine["options"] == other["options"]
        assert mine["generated"] is None
    table = read_predictions([tmp_path / "both.parquet"])
    check_same_rows(table)
    scores = scores_by_task(table, TYPES, free_form={"essay": "rouge-l"}).set_index("task")["score"]
    assert scores["essay"] == pytest.approx(sum(row["rouge_l"] for row in essays) / 6)
    kind = read_predictions([tmp_path / "kind.parquet"])
    assert scores["kind"] == scores_by_task(kind, TYPES)["score"].item()


def test_an_answer_is_what_the_llm_finds_likeliest_until_the_separator(mixed, tmp_path) -> None:
    spec = job(tmp_path, "gpt2", "vanilla-icl", ["essay"])
    output = tmp_path / "out.parquet"
    run_prediction(spec, mixed / "test.parquet", mixed / "tasks", output, None, answered)
    llm = random_llm("gpt2", 16)
    template = Template(llm.tokenizer, spec.reading, llm.max_positions)
    _, items = read_items(
        *(mixed / "test.parquet", mixed / "tasks", "test", template, 40, ["essay"]),
        longest_answers={"essay": 5},
    )
    expected = []
    for item in items:
        ids = [*llm.prefix, *item.demonstrations, *item.query]
        answer: list[int] = []
        while len(answer) < 5:
            logits = llm.model(torch.tensor([[*ids, *answer]])).logits[0, -1]
            answer.append(int(logits.argmax()))
            if answer[-1] in (llm.tokenizer.eos_token_id, *llm.tokenizer("w9")["input_ids"]):
                answer.pop()
                break
        expected.append(llm.tokenizer.decode(answer, skip_special_tokens=True))
    assert pyarrow.parquet.read_table(output)["generated"].to_pylist() == expected


def test_a_query_ends_with_what_stands_before_an_answer_but_for_spaces() -> None:
    llm = random_llm("gpt2", 16)

    def start(between: str) -> list[int]:
        separators = Separators(input_output=between, demonstrations=" ")
        reading = READING.model_copy(update={"separators": separators})
        return Template(llm.tokenizer, reading, 64).answer_start()

    assert start(" ") == start("") == []
    assert (
        start(" w5 ") == start(" w5") == llm.tokenizer("w5", add_special_tokens=False)["input_ids"]
    )


def test_a_row_without_options_is_refused_unless_its_task_is_free_form(mixed) -> None:
    llm = random_llm("gpt2", 16)
    template = Template(llm.tokenizer, READING, 64)
    with pytest.raises(UserError, match=r"essay.parquet, test row \d+ .*: it has no options"):
        read_items(mixed / "test.parquet", mixed / "tasks", "test", template, 40, ["essay"])


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("The Cat.", "cat", (100, 100, 66.6667)),
        ("a big cat", "big dog", (0, 50, 40)),
        ("", "cat", (0, 0, 0)),
        ("north", "south", (0, 0, 0)),
        ("one two three", "one three", (0, 80, 80)),
    ],
)
def test_answers_are_compared_as_squad_and_rouge_do(answer, right, expected) -> None:
    assert agreement(answer, right) == pytest.approx(expected, abs=1e-3)


def test_answers_without_the_library_that_compares_them_are_told(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.text", None)
    with pytest.raises(UserError, match="the Python package torchmetrics is not installed"):
        agreement("a", "b")


def test_predictions_with_damaged_answers_are_refused(mixed, tmp_path) -> None:
    spec = job(tmp_path, "gpt2", "zero-shot", ["essay"])
    output = tmp_path / "out.parquet"
    run_prediction(spec, mixed / "test.parquet", mixed / "tasks", output, None, answered)
    table = pyarrow.parquet.read_table(output)
    pyarrow.parquet.write_table(table.drop_columns(["f1"]), tmp_path / "without.parquet")
    with pytest.raises(UserError, match="without.parquet: predictions with answers lack .* f1"):
        read_predictions([tmp_path / "without.parquet"])
    rows = table.to_pylist()
    rows[0]["f1"] = None
    damaged = pyarrow.Table.from_pylist(rows, schema=table.schema)
    pyarrow.parquet.write_table(damaged, tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="empty.parquet: a row with a generated answer has no f1"):
        read_predictions([tmp_path / "empty.parquet"])


def test_a_prediction_without_free_form_tasks_is_told_nothing_of_them() -> None:
    told = PredictionSettings(tasks=["a"], partition="all", variant="default", condition="shots=4")
    assert "free_form" not in told.model_dump(mode="json")
