"""Pictures of studies: the score by the last axis, one line for each run, with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pyarrow
import seaborn

from mend.errors import UserError
from mend.labels import METHOD_LABELS
from mend.records import read_json, whole_file, write_parquet
from mend.studies.names import axis_label, is_number, point_text, value_text
from mend.studies.numbers import Point, points_of, study_axes

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

MARKERS = "os^DvPX*<>"
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
PANEL = (3.2, 2.5)
"""Width and height of a panel, in inches."""

Study = tuple[Mapping[str, Any], pd.DataFrame]


def write_figure(
    specs: Iterable[str | Path],
    tables: Iterable[str | Path],
    png: str | Path,
    parquet: str | Path | None = None,
) -> None:
    """Draw studies side by side, from their specifications and Parquet files, in the same order.

    `parquet`, if given, holds what is drawn: study, llm, panel (axes between the first and the
    last), run, axis, value, position (on the x axis), and score, low, high in per cent, or the
    average rank without low and high. Raises UserError for a study that varies nothing.
    """
    studies = [
        (read_json(spec), pd.read_parquet(table)) for spec, table in zip(specs, tables, strict=True)
    ]
    drawn = draw(studies, png)
    if parquet is not None:
        write_parquet(pyarrow.Table.from_pandas(drawn, preserve_index=False), parquet)


def draw(studies: Sequence[Study], png: str | Path) -> pd.DataFrame:
    """Draw (specification, table) of each study; returns what is drawn, as `write_figure` says.

    A row of panels for each LLM; a panel for each study and each value of the axes between `run`
    and the last one, which is along the bottom. Numbers are as far apart as on a log scale if the
    largest is 8 times the smallest or more; names are apart alike, and not joined by lines. A run
    has the same colour, line and marker in all panels. 300 dpi; the same bytes for the same
    numbers.
    """
    panels = []
    for spec, table in studies:
        axes = study_axes(spec)
        if len(axes) < 2:
            raise UserError(f"studies.{spec['name']} varies nothing that could be drawn (vary)")
        between = dict(list(axes.items())[1:-1])
        panels += [(spec, table, axes, place) for place in points_of(between)]
    llms = list(dict.fromkeys(llm["name"] for spec, _ in studies for llm in spec["llms"]))
    runs = list(dict.fromkeys(run for spec, _ in studies for run in study_axes(spec)["run"]))
    styles = _styles(runs)
    width = PANEL[0] * len(panels)
    # A letter of 8 points is some 0.065 inches wide, the line before a name half an inch.
    columns = max(1, min(len(runs), int(width / (0.065 * max(map(len, runs)) + 0.5))))
    size = (width, PANEL[1] * len(llms) + 0.2 * math.ceil(len(runs) / columns) + 0.1)
    drawn = []
    with pyplot.rc_context({"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8}):
        figure, grid = pyplot.subplots(
            len(llms), len(panels), figsize=size, squeeze=False, layout="constrained"
        )
        for row, llm in zip(grid, llms, strict=True):
            for axis, (spec, table, axes, place) in zip(row, panels, strict=True):
                if llm not in {entry["name"] for entry in spec["llms"]}:
                    axis.set_visible(False)
                    continue
                drawn.append(_panel(axis, spec, table, axes, place, llm, styles))
                titles = [llm] * (len(llms) > 1) + [point_text(place)] * bool(place)
                axis.set_title(", ".join(titles))
            _share_heights(row, [spec["name"] for spec, *_ in panels])
        if len(runs) > 1:
            joined = any(_places(list(axes.values())[-1])[0] for _, _, axes, _ in panels)
            only_markers = {} if joined else {"linestyle": ""}
            handles = [Line2D([], [], label=run, **styles[run] | only_markers) for run in runs]
            figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
        with whole_file(png) as temporary:
            figure.savefig(temporary, dpi=300, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return pd.concat(drawn, ignore_index=True)


def _share_heights(row: Sequence[Axes], names: Sequence[str]) -> None:
    """Give the panels of one study and LLM the same y axis, so that they compare."""
    for name in set(names):
        panels = [axis for axis, other in zip(row, names, strict=True) if other == name]
        ends = list(zip(*(axis.get_ylim() for axis in panels), strict=True))
        if not panels[0].yaxis_inverted():
            for axis in panels:
                axis.set_ylim(min(ends[0]), max(ends[1]))


def _styles(runs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Styles of runs; one that is called as a method looks the same in all pictures."""
    known = [*reversed(METHOD_LABELS.values())]
    names = [*known, *(run for run in runs if run not in known)]
    colours = seaborn.color_palette("colorblind", len(names))
    return {
        run: {
            "color": colours[i],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[i % len(LINES)],
            "linewidth": 1.2,
            "markersize": 4,
        }
        for i, run in enumerate(names)
    }


def _panel(
    axis: Axes,
    spec: Mapping[str, Any],
    table: pd.DataFrame,
    axes: Mapping[str, Sequence],
    place: Point,
    llm: str,
    styles: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Draw one panel; a point's last row is its AVG, or its only partition."""
    name, values = list(axes.items())[-1]
    numbers, places, log = _places(values)
    ranked = spec.get("score") == "rank"
    rows = table[table["llm"] == llm].drop_duplicates(list(axes), keep="last")
    for key, value in place.items():
        rows = rows[rows[key] == value]
    parts = []
    for i, run in enumerate(axes["run"]):
        own = rows[rows["run"] == run].set_index(name).loc[values].reset_index()
        low, high = (own[key] if not ranked else np.nan for key in ("ci_low", "ci_high"))
        part = pd.DataFrame(
            {
                **{"study": spec["name"], "llm": llm, "panel": point_text(place), "run": run},
                **{"axis": name, "value": [value_text(value) for value in values]},
                "position": places,
                "score": own["average_rank" if ranked else "mean"],
                **{"low": low, "high": high},
            }
        )
        parts.append(part)
        style = dict(styles[run])
        if numbers:
            axis.plot(places, part["score"], **style)
            if not ranked:
                axis.fill_between(
                    places, part["low"], part["high"], color=style["color"], alpha=0.15, lw=0
                )
        else:
            aside = (i - (len(axes["run"]) - 1) / 2) * min(0.2, 0.7 / len(axes["run"]))
            reach = None if ranked else [part["score"] - part["low"], part["high"] - part["score"]]
            style["linestyle"] = ""
            axis.errorbar(np.array(places) + aside, part["score"], reach, capsize=2, **style)
    axis.set_xlabel(axis_label(name))
    axis.set_ylabel("Average rank (1 is best)" if ranked else "Score (%)")
    _ticks(axis, [value_text(value) for value in values], places, log)
    if ranked:
        axis.set_ylim(len(values) + 0.2, 0.8)
        axis.set_yticks(range(1, len(values) + 1))
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    seaborn.despine(ax=axis)
    return pd.concat(parts, ignore_index=True)


def _places(values: Sequence[Any]) -> tuple[bool, list[float], bool]:
    """Whether values are numbers, their places along the axis, and whether these are of a log."""
    if not all(map(is_number, values)):
        return False, list(map(float, range(len(values)))), False
    numbers = list(map(float, values))
    return True, numbers, min(numbers) > 0 and max(numbers) >= 8 * min(numbers)


def _ticks(axis: Axes, labels: Sequence[str], places: Sequence[float], log: bool) -> None:
    if log:
        axis.set_xscale("log")
        axis.minorticks_off()
    # Names that would not fit side by side stand at an angle.
    long = sum(map(len, labels)) > 30
    angle = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axis.set_xticks(places, labels, **angle)
