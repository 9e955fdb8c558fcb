"""Pictures of studies: what is drawn, and that the picture says it."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers.studies import LLMS, predictions_of, study, study_spec
from matplotlib import pyplot

from mend.errors import UserError
from mend.reporting.figures import study as study_figure
from mend.reporting.figures.study import write_figure
from mend.reporting.figures.styles import line_styles
from mend.reporting.studies.numbers import compute_study

LOOKS = ("Vanilla ICL", "HyperTuning", "MEND")


def table_of(spec):
    return compute_study(study_spec(spec), predictions_of(spec, spec["partitions"])).table


def draw(studies, png):
    return study_figure.draw([(study_spec(spec), table) for spec, table in studies], png)


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, kept when they are closed."""
    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    yield kept
    monkeypatch.undo()
    pyplot.close("all")


def test_what_is_drawn_is_in_the_parquet_file(tmp_path):
    first, second = study(), study(name="named", partitions=["qa_to_qa"])
    second["axes"][1] = {"name": "size", "values": ["few", "some", "many"]}
    names = {4: "few", 16: "some", 32: "many"}
    for run in second["runs"]:
        run["values"] = {"run": run["values"]["run"], "size": names[run["values"]["length"]]}
    for spec in (first, second):
        (tmp_path / f"{spec['name']}.json").write_text(study_spec(spec).model_dump_json())
        table_of(spec).to_parquet(tmp_path / f"{spec['name']}.parquet")
    specs = [tmp_path / "length.json", tmp_path / "named.json"]
    tables = [tmp_path / "length.parquet", tmp_path / "named.parquet"]
    for name in ("one", "other"):
        write_figure(specs, tables, tmp_path / f"{name}.png", tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    drawn = pd.read_parquet(tmp_path / "one.parquet")
    assert len(drawn) == 2 * len(LLMS) * 3 * 3
    mend = drawn[(drawn["run"] == "MEND") & (drawn["llm"] == "small")]
    of_length = mend[mend["study"] == "length"]
    assert of_length["value"].tolist() == ["4", "16", "32"]
    assert of_length["position"].tolist() == [4, 16, 32]
    table = table_of(first)
    expected = table[
        (table["run"] == "MEND") & (table["llm"] == "small") & (table["partition"] == "AVG")
    ]
    assert of_length["score"].tolist() == expected["mean"].tolist()
    assert of_length["low"].tolist() == expected["ci_low"].tolist()
    assert mend[mend["study"] == "named"]["position"].tolist() == [0, 1, 2]
    write_figure(specs[:1], tables[:1], tmp_path / "alone.png")
    assert (tmp_path / "alone.png").stat().st_size > 10_000


def test_the_picture_has_a_panel_for_each_llm_and_each_value_between(tmp_path, figures):
    spec = study()
    spec["axes"].insert(1, {"name": "shots", "values": [1, 2]})
    spec["runs"] = [
        {**run, "values": {**run["values"], "shots": shots}}
        for run in spec["runs"]
        for shots in (1, 2)
    ]
    table = table_of(spec)
    table.loc[table["shots"] == 2, ["mean", "ci_low", "ci_high"]] /= 3
    draw([(spec, table)], tmp_path / "a.png")
    (figure,) = figures
    assert [axis.get_title() for axis in figure.axes] == [
        f"{llm}, K = {shots}" for llm in LLMS for shots in (1, 2)
    ]
    panel = figure.axes[0]
    assert panel.get_ylim() == figure.axes[1].get_ylim()
    assert panel.get_xscale() == "log"
    assert [text.get_text() for text in panel.get_xticklabels()] == ["4", "16", "32"]
    assert panel.get_xlabel() == "l, number of vectors"
    assert panel.get_ylabel() == "Score (%)"
    # The edges of the intervals have no markers.
    lines = [line for line in panel.lines if line.get_marker() != "None"]
    looks = {(line.get_marker(), line.get_linestyle(), line.get_color()) for line in lines}
    assert len(looks) == len({look[0] for look in looks}) == len({look[2] for look in looks}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *spec["axes"][0]["values"],
        "95 % interval",
    ]
    # The legend lies below the panels and their labels, within the picture.
    figure.canvas.draw()
    bounds = legend.get_window_extent()
    assert bounds.y1 <= min(axis.get_tightbbox().y0 for axis in figure.axes)
    assert bounds.y0 >= 0
    assert bounds.x0 >= 0
    assert bounds.x1 <= figure.bbox.x1


def test_scores_by_what_is_read(tmp_path, figures):
    spec = study(llms=study()["llms"][:1], partitions=["qa_to_qa"], context_share_of="Vanilla ICL")
    spec["runs"] = [run for run in spec["runs"] if run["llm"] == "small"]
    table = table_of(spec)
    # ICL reads 80.5 tokens at every length, here ever fewer: lines go from the least to the most.
    icl = table["run"] == "Vanilla ICL"
    table.loc[icl, "context_length"] = [160.0, 80.0, 4.0]
    other = study(name="other", llms=spec["llms"], runs=spec["runs"])
    drawn = draw([(spec, table), (other, table_of(other))], tmp_path / "a.png")
    of_spec = drawn[drawn["study"] == "length"]
    mend = of_spec[of_spec["run"] == "MEND"]
    assert mend["value"].tolist() == ["4", "16", "32"]
    assert mend["position"].tolist() == [4, 16, 32]
    assert of_spec.loc[of_spec["run"] == "Vanilla ICL", "value"].tolist() == ["32", "16", "4"]
    share, length = figures[0].axes
    assert [axis.get_title() for axis in (share, length)] == ["(a)", "(b)"]
    assert share.get_xlabel() == "Tokens or vectors that are read before a query"
    assert length.get_xlabel() == "l, number of vectors"
    assert share.get_xscale() == "log"
    ticks = [text.get_text() for text in share.get_xticklabels()]
    assert ticks == ["5", "10", "20", "50", "100"]
    # Along the top, of the longest: 4 tokens are 2.5 % of 160, 16 are 10 %.
    (above,) = share.child_axes
    assert above.get_xlabel() == "% of Vanilla ICL’s longest context"
    assert [text.get_text() for text in above.get_xticklabels()] == ["5", "10", "20", "50", "100"]
    figures[0].canvas.draw()
    places = [
        axis.transData.transform((number, 0))[0] for axis, number in ((share, 16), (above, 10))
    ]
    assert places[0] == pytest.approx(places[1])
    # A run that reads nothing at one of its places has that, at 0.
    table.loc[icl, "context_length"] = [160.0, 80.0, 0.0]
    draw([(spec, table)], tmp_path / "a.png")
    share = figures[1].axes[0]
    assert share.get_xscale() == "symlog"
    assert [text.get_text() for text in share.get_xticklabels()][0] == "0"
    assert share.transData.transform((0, 50))[0] < share.transData.transform((4.9, 50))[0]


def test_what_is_always_as_long_is_a_point_and_what_reads_nothing_a_level_line(tmp_path, figures):
    spec = study(llms=study()["llms"][:1], partitions=["qa_to_qa"], context_share_of="MEND")
    spec["runs"] = [run for run in spec["runs"] if run["llm"] == "small"]
    table = table_of(spec)
    lengths = {"Vanilla ICL": 0.0, "HyperTuning": 16.0}
    for run, length in lengths.items():
        own = table["run"] == run
        table.loc[own, ["context_length", "mean", "ci_low", "ci_high"]] = [length, 40, 35, 50]
    drawn = draw([(spec, table)], tmp_path / "a.png")
    assert drawn[drawn["run"] == "Vanilla ICL"]["position"].tolist() == [0, 0, 0]
    axis = figures[0].axes[0]
    # No place of its own on the axis, which is that of MEND: 4, 16 and 32 vectors.
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.get_xticklabels()] == ["5", "10", "20"]
    level, point, mend = (
        next(line for line in axis.lines if line.get_marker() == style["marker"])
        for style in map(line_styles(LOOKS).get, LOOKS)
    )
    assert list(level.get_ydata()) == [40, 40]
    low, high = level.get_transform().transform([(x, 40) for x in level.get_xdata()])[:, 0]
    assert low < axis.transData.transform((5, 40))[0] < axis.transData.transform((20, 40))[0] < high
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([16], [40])
    assert point.get_linestyle() == "None"
    assert list(mend.get_xdata()) == [4, 16, 32]
    bars = [bar for kept in axis.containers for bar in kept.lines[2]]
    assert [bar.get_segments()[0].tolist() for bar in bars] == [[[16, 35], [16, 50]]]


def test_many_panels_take_several_rows(tmp_path, figures):
    spec = study(llms=study()["llms"][:1], partitions=["qa_to_qa"])
    spec["runs"] = [run for run in spec["runs"] if run["llm"] == "small"]
    studies = [({**spec, "name": f"study{n}"}, table_of(spec)) for n in range(5)]
    draw(studies, tmp_path / "a.png")
    panels = [axis for axis in figures[0].axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == ["(a)", "(b)", "(c)", "(d)", "(e)"]
    assert len({round(axis.get_position().y0, 3) for axis in panels}) == 2
    assert figures[0].get_size_inches()[0] < 10


def test_llms_of_one_panel_each_stand_side_by_side(tmp_path, figures):
    spec = study()
    draw([(spec, table_of(spec))], tmp_path / "a.png")
    first, second = figures[0].axes
    assert [axis.get_title() for axis in (first, second)] == list(LLMS)
    assert first.get_position().y0 == pytest.approx(second.get_position().y0, abs=0.01)
    assert first.get_position().x1 < second.get_position().x0


def test_ranks_stand_with_1_at_the_top(tmp_path, figures):
    spec = study(score="rank", partitions=["qa_to_qa"])
    drawn = draw([(spec, table_of(spec))], tmp_path / "a.png")
    assert drawn[drawn["run"] == "MEND"]["score"].tolist() == [3, 2, 1] * 2
    assert drawn["low"].isna().all()
    bottom, top = figures[0].axes[0].get_ylim()
    assert bottom > 3
    assert top < 1
    assert figures[0].axes[0].get_ylabel() == "Average rank (1 is best)"


@pytest.mark.parametrize("score", ["mean", "rank"])
def test_the_picture_says_how_many_training_seeds_there_are(tmp_path, figures, score):
    spec = study(score=score)
    table = table_of(spec)
    for seeds in ([0], [0, 1, 2]):
        draw([({**spec, "training_seeds": seeds}, table)], tmp_path / "s.png")
    one, three = ([axis.get_ylabel() for axis in figure.axes] for figure in figures)
    assert not any("seed" in label for label in one)
    assert all(label.endswith("3 training seeds") for label in three)


def test_close_numbers_are_not_on_a_log_scale_and_names_not_joined(tmp_path, figures):
    spec = study(llms=study()["llms"][:1])
    beta = {4: 0.2, 16: 0.8, 32: 0.9}
    for axis, values in (("beta", beta), ("kind", {4: "a", 16: "b", 32: "c"})):
        spec["axes"][1] = {"name": axis, "values": list(values.values())}
        runs = study()["runs"]
        for run in runs:
            run["values"] = {"run": run["values"]["run"], axis: values[run["values"]["length"]]}
        spec["runs"] = [run for run in runs if run["llm"] == "small"]
        draw([(spec, table_of(spec))], tmp_path / "a.png")
    numbers, names = (figure.axes[0] for figure in figures)
    assert numbers.get_xscale() == names.get_xscale() == "linear"
    assert np.allclose(numbers.lines[0].get_xdata(), list(beta.values()))
    marked = [line for line in names.lines if len(line.get_xdata()) == 3]
    assert {line.get_linestyle() for line in marked} == {"None"}


def test_a_study_that_varies_nothing_is_refused(tmp_path):
    spec = study(axes=study()["axes"][:1])
    with pytest.raises(UserError, match=r"studies\.length varies nothing"):
        draw([(spec, pd.DataFrame())], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_nothing_here_imports_torch():
    code = "import sys, mend.reporting.figures.study; print({'torch'} & set(sys.modules) or 'none')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "none"
