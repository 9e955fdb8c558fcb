"""Reading predictions: which option is chosen, and what is refused."""

import pyarrow
import pyarrow.parquet
import pytest

from mend.errors import UserError
from mend.evaluation.prediction_table import (
    by_partition,
    check_same_rows,
    read_predictions,
)

ROW = {
    "llm": "small",
    "method": "mend",
    "variant": "default",
    "condition": "shots=16",
    "partition": "qa_to_qa",
    "task": "boats",
    "seed": 13,
    "row": 0,
    "context_length": 4,
    "context_bytes": 32,
    "making_flops": float("nan"),
    "reading_flops": 1e6,
    "gold": 1,
    "options": ["red", "blue", "green"],
    "scores": [-2.0, -1.0, -3.0],
}


@pytest.fixture
def write(tmp_path):
    def write_rows(*changes, name="predictions.parquet"):
        path = tmp_path / name
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([{**ROW, **change} for change in changes]), path
        )
        return path

    return write_rows


def test_the_highest_score_is_chosen_and_of_equal_ones_the_first(write):
    path = write(
        {},
        {"row": 1, "scores": [-1.0, -2.0, -1.0]},
        {"row": 2, "scores": [-5.0, -4.0, -4.0]},
        {"row": 3, "options": ["up", "down"], "scores": [-1e300, -9.0], "gold": 0},
        {"row": 4, "options": ["up", "down"], "scores": [0.0, 0.0]},
    )
    table = read_predictions([path])
    assert table["predicted"].tolist() == [1, 0, 1, 1, 0]
    assert table["predicted_text"].tolist() == ["blue", "red", "blue", "down", "up"]
    assert table["gold_text"].tolist() == ["blue", "blue", "blue", "up", "down"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scores": [0.0, float("nan"), 1.0]},
            "NaN.*mend with small on qa_to_qa .default, shots=16., task boats",
        ),
        ({"scores": [0.0, float("-inf"), 1.0]}, "not a finite number .*seed 13, row 1"),
        ({"scores": [0.0, float("inf"), 1.0]}, "not a finite number .*seed 13, row 1"),
        ({"scores": [0.0, None, 1.0]}, "column scores has lists with empty items"),
        ({"scores": [0.0, 1.0]}, "one score for each option"),
        ({"options": [], "scores": []}, "no options"),
        ({"gold": 3}, "not the index of an option"),
        ({"gold": -1}, "not the index of an option"),
        ({"task": None}, "column task has empty cells"),
        ({"row": 0}, "hold a row twice: .*row 0"),
    ],
)
def test_bad_rows_are_refused(write, change, message):
    path = write({}, {"row": 1, **change})
    with pytest.raises(UserError, match=message):
        read_predictions([path])


@pytest.mark.parametrize("change", [{"variant": "length=4"}, {"condition": "shots=4"}])
def test_several_runs_of_a_method_can_be_read(write, change):
    table = read_predictions([write({}), write(change, name="other.parquet")])
    assert len(table) == 2
    check_same_rows(table)


def test_missing_columns_are_named(tmp_path):
    path = tmp_path / "short.parquet"
    row = {key: value for key, value in ROW.items() if key not in ("seed", "scores")}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    with pytest.raises(UserError, match=r"short\.parquet: predictions lack the columns seed, scor"):
        read_predictions([path])


def test_a_file_that_is_absent_or_not_parquet_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_predictions([tmp_path / "absent.parquet"])
    path = tmp_path / "text.parquet"
    path.write_text("task,seed\n")
    with pytest.raises(UserError, match=r"text\.parquet: not a Parquet file"):
        read_predictions([path])
    with pytest.raises(UserError, match="no prediction files"):
        read_predictions([])


def test_methods_must_see_the_same_rows(write):
    same = [{}, {"row": 1}]
    other = [{**row, "method": "vanilla-icl"} for row in same]
    check_same_rows(read_predictions([write(*same, *other)]))
    with pytest.raises(
        UserError, match="vanilla-icl with small on qa_to_qa .* has 1 rows of task boa"
    ):
        check_same_rows(read_predictions([write(*same, other[0])]))
    with pytest.raises(UserError, match="right option of task boats, seed 13, row 1"):
        check_same_rows(read_predictions([write(*same, other[0], {**other[1], "gold": 0})]))


def test_rows_of_all_are_copied_to_each_partition(write):
    path = write(
        {"partition": "all"},
        {"partition": "all", "task": "ships"},
        {"partition": "all", "task": "unused"},
    )
    wanted = {"qa_to_qa": ["boats", "ships"], "hr_to_lr": ["ships"]}
    table = by_partition(read_predictions([path]), ["small"], ["mend"], wanted, [13])
    found = list(zip(table["partition"], table["task"], strict=True))
    assert found == [("qa_to_qa", "boats"), ("qa_to_qa", "ships"), ("hr_to_lr", "ships")]


@pytest.mark.parametrize(
    ("llm", "method", "tasks", "seeds", "message"),
    [
        ("small", "mend", ["boats", "ships"], [13], "mend with small on qa_to_qa lack the tasks s"),
        ("small", "mend", ["boats"], [13, 21, 42], "lack the seeds 21, 42 of task boats"),
        ("small", "hypertuning", ["boats"], [13], "no predictions of hypertuning with small"),
        ("large", "mend", ["boats"], [13], "no predictions of mend with large"),
    ],
)
def test_what_is_absent_is_named(write, llm, method, tasks, seeds, message):
    table = read_predictions([write({})])
    with pytest.raises(UserError, match=message):
        by_partition(table, [llm], [method], {"qa_to_qa": tasks}, seeds)
