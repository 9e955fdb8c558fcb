"""Scores against what contexts cost: bytes kept, and operations a query; a line for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from mend.configuration.settings import read_spec
from mend.configuration.specs.reporting import StudySpec
from mend.reporting.figures.styles import MANY, line_styles, write_picture
from mend.reporting.studies.names import point_text
from mend.reporting.studies.numbers import points_of
from mend.reporting.studies.table import read_study_table

COSTS = {
    "bytes": ("context_bytes", "Bytes that a context is kept in"),
    "operations": ("reading_flops", "Operations to read it with a query"),
}
"""Panels: the column of the study's table, and what is along the bottom."""

PANEL = (3.3, 3.4)
"""Width and height of a panel, in inches; more than NAMES names make it higher."""

NAMES = 16
LINE = 0.16
"""Height of a name, in inches."""

ASIDE = 0.05
"""Between runs that cost the same, in inches."""


def write_costs(
    spec_file: str | Path, table: str | Path, png: str | Path, parquet: str | Path
) -> None:
    """Draw a study's table, two panels side by side for each LLM, which share their scores.

    A run is a line through its points, from the cheapest on, with 95 % intervals, and has its name
    at the right. A run that keeps nothing is a level line where bytes are along the bottom, and the
    run that `context_share_of` names has a level line at the score of its longest context. The
    Parquet has what is drawn: llm, run, point, bytes, operations, score, low, high. Raises
    UserError, naming the file, for what is no study's table.
    """
    spec = read_spec(spec_file, StudySpec)
    draw_costs(spec, drawn_costs(spec, read_study_table(spec, table)), png, parquet)


def drawn_costs(spec: StudySpec, table: pd.DataFrame) -> pd.DataFrame:
    """Return what is drawn of a study's table; of points of a run that are the same, the first."""
    if spec.layout == "matrix":
        names = {run.method: run.values["run"] for run in spec.runs}
        table = table.assign(run=table["method"].map(names)).dropna(subset="run")
    axes = list(spec.axis_values)
    # A point's last row is its AVG, or its only partition.
    last = table.drop_duplicates(["llm", *axes], keep="last").set_index(["llm", *axes])
    rows = []
    for llm in spec.llms:
        for point in points_of(spec.axis_values):
            found = last.loc[(llm.name, *point.values())]
            rows.append(
                {
                    "llm": llm.name,
                    "run": point["run"],
                    "point": point_text(point),
                    **{name: found[column] for name, (column, _) in COSTS.items()},
                    "score": found["mean"],
                    "low": found["ci_low"],
                    "high": found["ci_high"],
                    "length": found["context_length"],
                }
            )
    drawn = pd.DataFrame(rows)
    same = drawn.columns.difference(["point"])
    return drawn.drop_duplicates(list(same)).reset_index(drop=True)


def draw_costs(
    spec: StudySpec, drawn: pd.DataFrame, png: str | Path, parquet: str | Path | None = None
) -> None:
    """Draw what `drawn_costs` returned; the same bytes for the same numbers."""
    runs, llms = list(drawn["run"].unique()), [llm.name for llm in spec.llms]
    styles = line_styles(runs)
    width = 2 * PANEL[0] + 0.075 * max(map(len, runs)) + 0.3
    height = max(PANEL[1], PANEL[1] * len(runs) / NAMES)
    with pyplot.rc_context({"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9}):
        figure, grid = pyplot.subplots(
            len(llms),
            len(COSTS),
            figsize=(width, height * len(llms)),
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for panels, llm in zip(grid, llms, strict=True):
            own = drawn[drawn["llm"] == llm]
            for axis, name in zip(panels, COSTS, strict=True):
                _panel(axis, own, name, styles, spec.context_share_of)
            room = 0.04 * (own["high"].max() - own["low"].min()) or 1.0
            panels[0].set_ylim(own["low"].min() - room, own["high"].max() + room)
            panels[0].set_ylabel(_scores(spec))
            if len(llms) > 1:
                panels[0].set_title(llm, loc="left", parse_math=False)
            figure.draw_without_rendering()
            _names(panels[-1], own, styles)
        write_picture(figure, png, drawn.drop(columns="length"), parquet)


def _scores(spec: StudySpec) -> str:
    seeds = len(spec.training_seeds)
    return "Score (%), 95 % interval" + (f", {seeds} training seeds" if seeds > 1 else "")


def _panel(
    axis: Axes,
    drawn: pd.DataFrame,
    name: str,
    styles: Mapping[str, Mapping[str, Any]],
    whole: str | None,
) -> None:
    """Draw the lines of one LLM by one cost."""
    by_run = {run: own.sort_values(name) for run, own in drawn.groupby("run", sort=False)}
    places = {run: tuple(own[name]) for run, own in by_run.items()}
    for run, own in by_run.items():
        style = styles[run]
        alike = [other for other, place in places.items() if place == places[run]]
        inches = ASIDE * (alike.index(run) - (len(alike) - 1) / 2)
        aside = axis.transData + ScaledTranslation(inches, 0, axis.figure.dpi_scale_trans)
        level = own["score"].iloc[0] if not own["bytes"].any() else None
        if run == whole:
            level = own.loc[own["length"].idxmax(), "score"]
        if level is not None:
            axis.axhline(
                level, color=style["color"], linestyle=(0, (4, 3)), linewidth=0.9, zorder=1
            )
        own = own[own[name] > 0]
        reach = [own["score"] - own["low"], own["high"] - own["score"]]
        shown = {"color": style["color"], "transform": aside}
        axis.errorbar(
            own[name], own["score"], reach, linestyle="", elinewidth=0.8, alpha=0.6, **shown
        )
        axis.plot(own[name], own["score"], linewidth=1.4, markersize=5.5, **{**style, **shown})
    _log(axis, drawn.loc[drawn[name] > 0, name])
    axis.set_xlabel(COSTS[name][1])
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    seaborn.despine(ax=axis)


def _log(axis: Axes, costs: pd.Series) -> None:
    """Give a panel a log scale along the bottom, with a little room beside its points."""
    if costs.empty:  # none is known
        return
    axis.set_xscale("log")
    low, high = costs.min(), costs.max()
    room = (high / low) ** 0.06 * 1.15
    axis.set_xlim(low / room, high * room)
    ratio = high / low * room**2
    subs = MANY if ratio < 4 else (1, 2, 5) if ratio < 80 else (1,)
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(EngFormatter())


def _names(axis: Axes, drawn: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the runs' names at the right, each joined to its dearest point, none over another."""
    last = drawn.sort_values("operations").drop_duplicates("run", keep="last").set_index("run")
    last = last.sort_values("score", kind="stable")
    height = axis.get_window_extent().height / axis.figure.dpi
    low, high = axis.get_ylim()
    gap = LINE / height * (high - low)
    edge, beside = axis.get_xlim()[1], axis.get_yaxis_transform()
    free = {"clip_on": False, "transform": beside}
    for run, place in zip(last.index, spread(last["score"], gap, low, high), strict=True):
        row, style = last.loc[run], styles[run]
        thin = {"color": style["color"], "linewidth": 0.5, "zorder": 0}
        start = row["operations"] if row["operations"] > 0 else edge
        axis.plot([start, edge], [row["score"]] * 2, alpha=0.7, linestyle=":", **thin)
        axis.plot([1, 1.05], [row["score"], place], **thin, **free)
        axis.plot([1.08], [place], markersize=5.5, **{**style, **free, "linestyle": ""})
        axis.text(1.11, place, run, va="center", color=style["color"], parse_math=False, **free)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places for names, at least `gap` apart, as near to `wanted` as can be (least squares).

    wanted: rising. Places are between `low` and `high`, if so many fit.
    """
    # Less what keeps them apart, places only have to rise: neighbours that would fall share a mean.
    groups: list[list[float]] = []
    for number, place in enumerate(wanted):
        groups.append([place - number * gap])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    apart = gap * np.arange(len(wanted))
    level = np.concatenate([np.full(len(group), np.mean(group)) for group in groups])
    most = high - apart[-1]
    return list((level.clip(low, most) if low < most else (low + most) / 2) + apart)
