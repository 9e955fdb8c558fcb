"""Scores by what contexts cost: what is drawn, where names stand, and what has no place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.studies import LLMS, predictions_of, study, study_spec
from matplotlib import pyplot

from mend.errors import UserError
from mend.reporting.figures.costs import draw_costs, drawn_costs, spread, write_costs
from mend.reporting.studies.numbers import compute_study


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, kept when they are closed."""
    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    yield kept
    monkeypatch.undo()
    pyplot.close("all")


def numbers_of(**changes):
    """Return a study's specification and its table."""
    spec = study(**changes)
    table = compute_study(study_spec(spec), predictions_of(spec, spec["partitions"])).table
    return study_spec(spec), table


def test_what_is_drawn_is_in_the_parquet_file(tmp_path):
    spec, table = numbers_of()
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    table.to_parquet(tmp_path / "table.parquet")
    files = (tmp_path / "spec.json", tmp_path / "table.parquet")
    for name in ("one", "other"):
        write_costs(*files, tmp_path / f"{name}.png", tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    drawn = pd.read_parquet(tmp_path / "one.parquet")
    # Vanilla ICL has no length: its three points are one.
    assert len(drawn) == len(LLMS) * (1 + 3 + 3)
    [icl] = drawn[(drawn["run"] == "Vanilla ICL") & (drawn["llm"] == "small")].to_dict("records")
    assert (icl["bytes"], icl["operations"]) == (8 * 80.5, 10 * 80.5 + 100)
    mend = drawn[(drawn["run"] == "MEND") & (drawn["llm"] == "large")]
    expected = table[(table["run"] == "MEND") & (table["llm"] == "large")]
    expected = expected[expected["partition"] == "AVG"]
    assert mend["bytes"].tolist() == [32, 128, 256]
    assert mend[["score", "low", "high"]].to_numpy().tolist() == (
        expected[["mean", "ci_low", "ci_high"]].to_numpy().tolist()
    )


def test_every_run_has_its_name_beside_its_line(tmp_path, figures):
    spec, table = numbers_of(llms=[{"name": "small"}], context_share_of="Vanilla ICL")
    draw_costs(spec, drawn_costs(spec, table[table["llm"] == "small"]), tmp_path / "costs.png")
    figures[0].canvas.draw()
    left, right = figures[0].axes
    assert left.get_shared_y_axes().joined(left, right)
    assert {left.get_xscale(), right.get_xscale()} == {"log"}
    names = {text.get_text(): text for text in right.texts}
    assert set(names) == {"Vanilla ICL", "HyperTuning", "MEND"}
    boxes = sorted((text.get_window_extent() for text in names.values()), key=lambda box: box.y0)

    assert all(lower.y1 <= upper.y0 for lower, upper in zip(boxes, boxes[1:], strict=False))
    joined = [line for line in left.lines if list(line.get_xdata()) == [32, 128, 256]]
    assert {line.get_color() for line in joined} >= {
        names["MEND"].get_color(),
        names["HyperTuning"].get_color(),
    }
    # Runs that cost the same stand side by side.
    places = {tuple(line.get_transform().transform((32, 50))) for line in joined}
    assert len(places) == 2


def test_what_keeps_nothing_is_a_level_line_by_bytes(tmp_path, figures):
    spec, table = numbers_of(llms=[{"name": "small"}])
    drawn = drawn_costs(spec, table[table["llm"] == "small"])
    drawn.loc[drawn["run"] == "Vanilla ICL", "bytes"] = 0.0
    draw_costs(spec, drawn, tmp_path / "costs.png", tmp_path / "costs.parquet")
    left, _ = figures[0].axes
    score = drawn.loc[drawn["run"] == "Vanilla ICL", "score"].item()
    assert [score, score] in [list(line.get_ydata()) for line in left.lines]
    assert left.get_xlim()[0] > 0


def test_operations_that_are_not_known_leave_a_panel_empty(tmp_path, figures):
    spec, table = numbers_of(llms=[{"name": "small"}])
    table = table[table["llm"] == "small"].assign(reading_flops=np.nan)
    draw_costs(spec, drawn_costs(spec, table), tmp_path / "costs.png")
    assert {text.get_text() for text in figures[0].axes[1].texts} >= {"MEND"}


def test_a_table_of_methods_has_its_picture_too():
    spec, table = numbers_of(
        axes=[{"name": "run", "values": ["HyperTuning", "MEND"]}],
        runs=[
            {**run, "values": {"run": run["values"]["run"]}}
            for run in study()["runs"]
            if run["variant"] == "default" and run["method"] != "vanilla-icl"
        ],
        layout="matrix",
        reference={},
        claims=[{"text": "above", "higher": {"run": "MEND"}, "lower": {"run": "HyperTuning"}}],
    )
    assert "mend - hypertuning" in set(table["method"])
    drawn = drawn_costs(spec, table)
    assert drawn["run"].tolist() == ["HyperTuning", "MEND"] * len(LLMS)
    assert (drawn["bytes"] == 8 * 16).all()


def test_a_file_that_is_no_studys_table_is_named(tmp_path):
    spec, _ = numbers_of()
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    pd.DataFrame({"llm": ["small"]}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(UserError, match=r"table\.parquet: a study's numbers lack the columns"):
        write_costs(
            tmp_path / "spec.json", tmp_path / "table.parquet", tmp_path / "a", tmp_path / "b"
        )


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([1, 5, 9], [1, 5, 9]),
        ([4, 4, 4], [3, 4, 5]),
        ([5, 5.5, 9], [4.75, 5.75, 9]),
        ([0, 0.2], [0, 1]),
        ([9.5, 10], [9, 10]),
        ([5] * 12, [-0.5 + place for place in range(12)]),  # more than there is room for
    ],
)
def test_names_stand_as_near_as_they_can(wanted, expected):
    assert spread(wanted, 1, 0, 10) == pytest.approx(expected)
