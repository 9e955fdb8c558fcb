"""Divergence from the teacher by position in the query, a line for each of a study's runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import seaborn
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mend.configuration.choices import ALL_PARTITIONS
from mend.configuration.settings import read_spec
from mend.configuration.specs.reporting import StudyRun, StudySpec
from mend.data.parquet import NUMBER, REAL, TEXT, read_columns
from mend.errors import UserError
from mend.reporting.figures.lines import lines_of
from mend.reporting.figures.styles import legend_columns, line_styles, log_scale, write_picture

RUN = ("llm", "method", "variant", "condition")
COLUMNS = dict.fromkeys([*RUN, "partition", "task", "region"], TEXT)
COLUMNS |= {"position": NUMBER, "rows": NUMBER, "divergence": REAL}

ABREAST = 3
"""Panels side by side, at most."""

BAND = 0.2
"""How opaque the range over training seeds is."""

SHARE = 0.5
"""Of the rows: a line ends where fewer are as long."""


def write_divergence(
    spec_file: str | Path, parquets: Iterable[str | Path], png: str | Path, parquet: str | Path
) -> None:
    """Draw what `mend.analysis.divergence` measured of a study's runs, a panel for each LLM.

    A line is the mean over rows of all tasks and partitions, as far as half of the rows reach, and
    over training seeds, with their range; at its right the first token of the answer. The Parquet
    has what is drawn: llm, line, region, position, mean, low, high, rows (of a training seed) and
    training_seeds. Raises UserError, naming the file, for what is not such a measurement.
    """
    spec = read_spec(spec_file, StudySpec)
    tables = [read_columns(path, COLUMNS, "divergences").to_pandas() for path in parquets]
    measured = dict(iter(pd.concat(tables, ignore_index=True).groupby(list(RUN))))

    def of_run(run: StudyRun) -> tuple[str, ...] | None:
        key = tuple(getattr(run, name) for name in RUN)
        return key if key in measured else None

    lines = [
        _line(spec, llm.name, name, [measured[key] for key in dict.fromkeys(by_seed.values())])
        for llm in spec.llms
        for name, by_seed in lines_of(spec, llm.name, of_run).items()
    ]
    if not lines:
        raise UserError(f"studies.{spec.name}: no divergence was measured of its runs")
    _draw(pd.concat(lines, ignore_index=True), spec, png, parquet)


def _line(spec: StudySpec, llm: str, name: str, runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return what is drawn of one line, of what was measured of each training seed.

    A run of all partitions counts in each by its tasks.
    """
    seeds = []
    for own in runs:
        parts = [
            own[own["partition"].isin([partition, ALL_PARTITIONS]) & own["task"].isin(tasks)]
            for partition, tasks in spec.test_tasks.items()
        ]
        rows = pd.concat(parts)
        rows = rows.assign(total=rows["rows"] * rows["divergence"])
        sums = rows.groupby(["region", "position"])[["total", "rows"]].sum()
        sums = sums[sums["rows"] >= SHARE * sums["rows"].max()]
        seeds.append((sums["total"] / sums["rows"]).rename("value").to_frame().join(sums["rows"]))
    table = pd.concat(seeds).groupby(level=["region", "position"])
    found = table["value"].agg(["mean", "min", "max"]).join(table["rows"].first()).reset_index()
    found = found.rename(columns={"min": "low", "max": "high"})
    # The query comes before the answer.
    found = found.sort_values(["region", "position"], ascending=[False, True])
    return found.assign(llm=llm, line=name, training_seeds=len(seeds))


def _draw(table: pd.DataFrame, spec: StudySpec, png: str | Path, parquet: str | Path) -> None:
    llms, lines = list(table["llm"].unique()), list(table["line"].unique())
    styles = line_styles(lines)
    columns = min(ABREAST, len(llms))
    rows, width = -(-len(llms) // columns), max(3.4 * columns, 4.2)
    with pyplot.rc_context({"font.size": 8, "axes.titlesize": 8}):
        figure, grid = pyplot.subplots(
            rows,
            columns,
            figsize=(width, 2.7 * rows + 0.4),
            squeeze=False,
            layout="constrained",
        )
        for axis in grid.flat[len(llms) :]:
            axis.set_visible(False)
        for axis, llm in zip(grid.flat, llms, strict=False):
            _panel(axis, table[table["llm"] == llm], styles)
            if len(llms) > 1:
                axis.set_title(llm, parse_math=False)
        handles: list = [
            Line2D([], [], label=name, linewidth=1.2, markersize=4, **styles[name])
            for name in lines
        ]
        if (seeds := table["training_seeds"].max()) > 1:
            band = {"facecolor": "grey", "alpha": 2 * BAND, "linewidth": 0}
            handles.append(Patch(label=f"range over {seeds} seeds", **band))
        names = legend_columns(handles, width)
        figure.legend(handles=handles, loc="outside lower center", ncols=names, frameon=False)
        order = ["llm", "line", "region", "position", "mean", "low", "high", "rows"]
        write_picture(figure, png, table[[*order, "training_seeds"]], parquet)


def _panel(axis: Axes, table: pd.DataFrame, styles: Mapping[str, Mapping]) -> None:
    query, answer = (table[table["region"] == name] for name in ("query", "answer"))
    last = query["position"].max() if len(query) else 0
    aside = last + max(1.0, 0.12 * last)
    lines = list(table["line"].unique())
    for number, name in enumerate(lines):
        style = {**styles[name], "linewidth": 1.2, "markersize": 4}
        own = query[query["line"] == name]
        axis.plot(own["position"], own["mean"], **{**style, "marker": ""})
        seeds = own["training_seeds"].max() if len(own) else 1
        if seeds > 1:
            ends = (own["position"], own["low"], own["high"])
            axis.fill_between(*ends, color=style["color"], alpha=BAND, lw=0)
        for row in answer[answer["line"] == name].to_dict("records"):
            reach = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            # Side by side, so that ranges do not lie over each other.
            place = aside + (number - (len(lines) - 1) / 2) * 0.02 * max(last, 10)
            bars = reach if row["training_seeds"] > 1 else None
            axis.errorbar([place], [row["mean"]], bars, capsize=2, **{**style, "linestyle": ""})
    positive = table["mean"][table["mean"] > 0]
    if len(positive) and positive.max() >= 10 * positive.min():
        log_scale(axis)
    else:
        axis.set_ylim(bottom=0)
    ticks = [
        tick for tick in MaxNLocator(5, integer=True).tick_values(0, last) if 0 <= tick <= last
    ]
    axis.set_xticks([*ticks, aside], [*(f"{tick:g}" for tick in ticks), "answer"])
    axis.axvline((last + aside) / 2, color="grey", linewidth=0.4)
    axis.set_xlabel("Token of the query, or the answer’s first")
    axis.set_ylabel("KL(teacher ‖ student), nats")
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    seaborn.despine(ax=axis)
