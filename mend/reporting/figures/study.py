"""Pictures of studies: the score by the last axis, or by what is read, a line for each run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axes._secondary_axes import SecondaryAxis
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from mend.configuration.claims import Point
from mend.configuration.settings import read_spec
from mend.configuration.specs.reporting import StudySpec
from mend.errors import UserError
from mend.reporting.figures.styles import legend_columns, line_styles, write_picture
from mend.reporting.studies.names import axis_display_name, is_number, point_text, value_text
from mend.reporting.studies.numbers import points_of
from mend.reporting.studies.table import read_study_table

PANEL = (3.2, 2.5)
"""Width and height of a panel, in inches; more than `NAMES` names make it wider."""

NAMES = 5
ABREAST = 4
"""Panels side by side, at most."""

BAND = 0.15
"""How opaque the interval around a line is."""

ASIDE = 0.07
"""Between points of one place, in inches."""

Study = tuple[StudySpec, pd.DataFrame]


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
    specs, tables = list(specs), list(tables)
    if len(specs) != len(tables):
        raise UserError(f"{len(specs)} specifications and {len(tables)} tables; each has one")
    studies = [
        (study := read_spec(spec, StudySpec), read_study_table(study, table))
        for spec, table in zip(specs, tables, strict=True)
    ]
    draw(studies, png, parquet)


def draw(
    studies: Sequence[Study], png: str | Path, parquet: str | Path | None = None
) -> pd.DataFrame:
    """Draw (specification, table) of each study; returns what is drawn, as `write_figure` says.

    Rows of panels for each LLM (or a panel for each LLM); a panel for each study and each value of
    the axes between `run` and the last one, which is along the bottom; panels of several studies
    have letters. Numbers are as far apart as on a log scale if the largest is 8 times the smallest
    or more; names are apart alike, and not joined by lines. With `context_share_of` it is instead
    what the LLM reads before a query: the table's context_length along the bottom, its
    context_share along the top; a run that is at one place there is a point, and one that reads
    nothing a level line. A run has the same colour, line and marker in all panels. 300 dpi; the
    same bytes for the same numbers.
    """
    panels = []
    for spec, table in studies:
        axes = spec.axis_values
        if len(axes) < 2:
            raise UserError(f"studies.{spec.name} varies nothing that could be drawn (vary)")
        between = dict(list(axes.items())[1:-1])
        panels += [(spec, table, axes, place) for place in points_of(between)]
    llms = list(dict.fromkeys(llm.name for spec, _ in studies for llm in spec.llms))
    runs = list(dict.fromkeys(run for spec, _ in studies for run in spec.axis_values["run"]))
    sizes = {"linewidth": 1.2, "markersize": 4}
    styles = {name: style | sizes for name, style in line_styles(runs).items()}
    # A block is what stands together: the panels of an LLM, or of all LLMs if each has but one.
    blocks = [[(llm, panel) for panel in panels] for llm in llms]
    if len(panels) == 1:
        blocks = [[item for block in blocks for item in block]]
    size = len(blocks[0])
    lines = math.ceil(size / ABREAST)
    abreast = math.ceil(size / lines)
    widths = [_width(spec, axes) for _, (spec, _, axes, _) in blocks[0]]
    widths = [max(widths[column::abreast]) for column in range(abreast)]
    handles = _legend(studies, runs, styles)
    columns = legend_columns(handles, sum(widths))
    height = PANEL[1] * len(blocks) * lines + 0.2 * math.ceil(len(handles) / columns) + 0.1
    drawn = []
    with pyplot.rc_context({"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8}):
        figure, grid = pyplot.subplots(
            len(blocks) * lines,
            abreast,
            figsize=(sum(widths), height),
            width_ratios=widths,
            squeeze=False,
            layout="constrained",
        )
        for number, block in enumerate(blocks):
            places = grid[number * lines : (number + 1) * lines].ravel()
            for axis in places[size:]:
                axis.set_visible(False)
            for letter, axis, (llm, (spec, table, axes, place)) in zip(
                ascii_lowercase, places, block, strict=False
            ):
                if llm not in {entry.name for entry in spec.llms}:
                    axis.set_visible(False)
                    continue
                drawn.append(_panel(axis, spec, table, axes, place, llm, styles))
                titles = [llm] * (len(llms) > 1) + [point_text(place)] * bool(place)
                lettered = [f"({letter})"] * (len(studies) > 1)
                axis.set_title(" ".join([*lettered, ", ".join(titles)]).strip(), parse_math=False)
            _share_heights(places[:size], [(llm, panel[0].name) for llm, panel in block])
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
        table = pd.concat(drawn, ignore_index=True)
        write_picture(figure, png, table, parquet)
    return table


def _width(spec: StudySpec, axes: Mapping[str, Sequence]) -> float:
    """Width of a study's panels, in inches."""
    values = list(axes.values())[-1]
    joined = _by_share(spec) or _places(values)[0]
    return PANEL[0] * (1 if joined else max(1, len(values) / NAMES))


def _legend(
    studies: Sequence[Study], runs: Sequence[str], styles: Mapping[str, Mapping[str, Any]]
) -> list[Artist]:
    """What the legend names: the runs, if there are several, and what intervals look like."""
    kinds = {
        _by_share(spec) or _places(list(spec.axis_values.values())[-1])[0] for spec, _ in studies
    }
    only_markers = {} if True in kinds else {"linestyle": ""}
    named = runs if len(runs) > 1 else []
    handles: list[Artist] = [
        Line2D([], [], label=run, **styles[run] | only_markers) for run in named
    ]
    if all(spec.score == "rank" for spec, _ in studies):
        return handles
    if True in kinds:
        band = {"facecolor": "grey", "alpha": 2 * BAND, "linewidth": 0}
        return [*handles, Patch(label="95 % interval", **band)]
    bar = {"color": "grey", "linestyle": "", "marker": "|", "markersize": 9}
    return [*handles, Line2D([], [], label="95 % interval", **bar)]


def _share_heights(row: Sequence[Axes], names: Sequence[tuple[str, str]]) -> None:
    """Give panels of the same name (LLM and study) the same y axis, so that they compare."""
    for name in set(names):
        panels = [axis for axis, other in zip(row, names, strict=True) if other == name]
        ends = list(zip(*(axis.get_ylim() for axis in panels), strict=True))
        if not panels[0].yaxis_inverted():
            for axis in panels:
                axis.set_ylim(min(ends[0]), max(ends[1]))


def _panel(
    axis: Axes,
    spec: StudySpec,
    table: pd.DataFrame,
    axes: Mapping[str, Sequence],
    place: Point,
    llm: str,
    styles: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Draw one panel; a point's last row is its AVG, or its only partition."""
    name, values = list(axes.items())[-1]
    numbers, places, log = _places(values)
    by_share = _by_share(spec)
    ranked = spec.score == "rank"
    rows = table[table["llm"] == llm].drop_duplicates(list(axes), keep="last")
    for key, value in place.items():
        rows = rows[rows[key] == value]
    parts: list[pd.DataFrame] = []
    for i, run in enumerate(axes["run"]):
        own = rows[rows["run"] == run].set_index(name).loc[values].reset_index()
        low, high = (own[key] if not ranked else np.nan for key in ("ci_low", "ci_high"))
        part = pd.DataFrame(
            {
                "study": spec.name,
                "llm": llm,
                "panel": point_text(place),
                "run": run,
                "axis": name,
                "value": [value_text(value) for value in values],
                "position": own["context_length"] if by_share else places,
                "score": own["average_rank" if ranked else "mean"],
                "low": low,
                "high": high,
            }
        )
        part = part.sort_values("position", kind="stable")
        parts.append(part)
        style = dict(styles[run])
        if by_share and part["position"].nunique() == 1:
            beside = sum(part["position"].iloc[0] in set(other["position"]) for other in parts[:-1])
            _one_place(axis, part.iloc[0], style, beside)
        elif numbers or by_share:
            axis.plot(part["position"], part["score"], **style)
            if not ranked:
                ends = (part["position"], part["low"], part["high"])
                axis.fill_between(*ends, color=style["color"], alpha=BAND, lw=0)
                # Bands that lie over each other are told apart by their edges.
                for edge in ("low", "high"):
                    axis.plot(part["position"], part[edge], color=style["color"], alpha=0.4, lw=0.5)
        else:
            aside = (i - (len(axes["run"]) - 1) / 2) * min(0.2, 0.7 / len(axes["run"]))
            reach = None if ranked else [part["score"] - part["low"], part["high"] - part["score"]]
            style["linestyle"] = ""
            axis.errorbar(np.array(places) + aside, part["score"], reach, capsize=2, **style)
    drawn = pd.concat(parts, ignore_index=True)
    if by_share:
        axis.set_xlabel("Tokens or vectors that are read before a query")
        _read_ticks(axis, axis, drawn)
        longest = rows.loc[rows["run"] == spec.context_share_of, "context_length"].max()
        above = axis.secondary_xaxis(
            "top",
            functions=(lambda read: 100 * read / longest, lambda share: share * longest / 100),
        )
        above.set_xlabel(f"% of {spec.context_share_of}’s longest context")
        _read_ticks(axis, above, drawn, 100 / longest)
    else:
        axis.set_xlabel(axis_display_name(name))
        _ticks(axis, [value_text(value) for value in values], places, log)
    seeds = len(spec.training_seeds)
    trained = f",\n{seeds} training seeds" if seeds > 1 else ""
    axis.set_ylabel(("Average rank (1 is best)" if ranked else "Score (%)") + trained)
    if ranked:
        axis.set_ylim(len(values) + 0.2, 0.8)
        axis.set_yticks(range(1, len(values) + 1))
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    seaborn.despine(ax=axis)
    return drawn


def _by_share(spec: StudySpec) -> bool:
    return bool(spec.context_share_of)


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


def _one_place(axis: Axes, row: pd.Series, style: Mapping[str, Any], beside: int) -> None:
    """Draw a run whose context is always as long: a point, or a level line if it reads nothing.

    beside: how many are at the same place already; each stands a little to the right of the last.
    """
    ends = [row["low"], row["high"]]
    ranked = np.isnan(ends).any()
    if row["position"]:
        reach = None if ranked else [[row["score"] - ends[0]], [ends[1] - row["score"]]]
        aside = ScaledTranslation(beside * ASIDE, 0, axis.figure.dpi_scale_trans)
        style = {**style, "linestyle": "", "transform": axis.transData + aside}
        axis.errorbar([row["position"]], [row["score"]], reach, capsize=2, **style)
        return
    whole = {"transform": axis.get_yaxis_transform()}
    axis.plot([0.03, 0.97], [row["score"]] * 2, **style, **whole)
    if not ranked:
        axis.fill_between([0, 1], *ends, color=style["color"], alpha=BAND, lw=0, **whole)


def _read_ticks(axis: Axes, along: Axes | SecondaryAxis, drawn: pd.DataFrame, scale: float = 1):
    """Ticks at round numbers of what is read, times `scale`; on a log scale from 8 times on.

    That is linear below the least above 0, if a run reads nothing at one of several places.
    """
    by_run = drawn.groupby(["run"])["position"]
    read = drawn.loc[(by_run.transform("nunique") > 1) | (drawn["position"] > 0), "position"]
    low, high = read[read > 0].min(), read.max()
    if not high >= 8 * low:
        return
    nothing = bool((read == 0).any())
    if along is axis:
        axis.set_xscale("symlog", linthresh=low) if nothing else axis.set_xscale("log")
    along.xaxis.set_minor_locator(NullLocator())
    low, high = low * scale, high * scale
    steps = (1,) if high >= 300 * low else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    ticks = [0.0] * nothing + [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1]
    along.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
