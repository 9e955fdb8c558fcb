"""Figure 3: operations, memory and time of one query, and the operations of many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import seaborn
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mend.configuration.choices import PARTITIONS
from mend.configuration.display_names import method_display_name, partition_display_name
from mend.data.parquet import REAL, TEXT, read_columns
from mend.errors import UserError
from mend.reporting.figures.styles import line_styles, write_picture

KEYS = ("llm", "partition", "method", "part", "device")
COLUMNS = dict.fromkeys(KEYS, TEXT) | {"task": TEXT, "context_tokens": REAL, "queries": REAL}
COLUMNS |= dict.fromkeys(["flops", "peak_memory_bytes", "seconds"], REAL)

METHODS = ("vanilla-icl", "prompt-tuning", "mend")
_STYLES = line_styles([])
COLOURS, MARKERS = (
    {name: _STYLES[method_display_name(name)][key] for name in METHODS}
    for key in ("color", "marker")
)
HATCHES = dict(zip(METHODS, ("", "////", "...."), strict=True))
#: Column, title, and the units that its numbers may have.
PANELS = (
    ("flops", "Forward operations", {"TFLOPs": 1e12, "GFLOPs": 1e9, "MFLOPs": 1e6}),
    ("peak_memory_bytes", "Peak memory above weights", {"GB": 1e9, "MB": 1e6, "kB": 1e3}),
    ("seconds", "Time", {"s": 1.0, "ms": 1e-3}),
)
#: Of the context: once for all queries, or again for each.
PREFILLS = {"cached": ("-", "read once"), "reread": ("--", "read again")}
DRAWN = ["llm", "panel", "partition", "method", "part", "queries", "value"]


def draw_efficiency(parquets: Iterable[str | Path], png: str | Path, parquet: str | Path) -> None:
    """Draw what `mend.analysis.efficiency.measure` wrote, and write what is drawn as Parquet.

    Four panels for each LLM: operations, memory and time of one query on each partition, as the
    paper's figure 3 has them, and the operations of n queries after one context (mean over the
    partitions) with the number from which on MEND costs at most what vanilla ICL does. Drawn
    columns: llm, panel, partition, method, part, queries, value (operations, bytes, seconds).
    Raises UserError if nothing was measured.
    """
    tables = [
        read_columns(path, COLUMNS, "measurements", None, COLUMNS.keys() - set(KEYS))
        for path in parquets
    ]
    table = pd.concat([one.to_pandas() for one in tables], ignore_index=True)
    table = table[table["method"].isin(METHODS)]
    table = table.drop_duplicates(["llm", "partition", "method", "part", "queries", "device"])
    if table.empty:
        raise UserError("figure 3: nothing was measured; name an LLM and a partition")
    llms = list(table["llm"].unique())
    figure = pyplot.figure(figsize=(7.2, 4.9 * len(llms) + 0.5), layout="constrained")
    blocks = figure.subfigures(len(llms), 1, squeeze=False)[:, 0]
    drawn = []
    with pyplot.rc_context({"font.size": 7, "hatch.linewidth": 0.5}):
        for block, llm in zip(blocks, llms, strict=True):
            of_llm = table[table["llm"] == llm]
            block.suptitle(_heading(llm, of_llm), fontsize=9)
            axes = block.subplots(2, 2).flat
            for axis, panel in zip(axes, PANELS, strict=False):
                drawn.append(_bars(axis, of_llm, *panel))
            drawn.append(_many_queries(axes[3], of_llm))
        _legend(figure, table)
        figure.canvas.draw()
        _write_values(figure)
        write_picture(figure, png, pd.concat(drawn, ignore_index=True)[DRAWN], parquet)


def break_even(icl: tuple[float, float], mend: tuple[float, float]) -> int | None:
    """Return the number of queries from which on MEND costs at most what vanilla ICL costs.

    Each is (what it costs once, what it costs for each query). None if MEND never does.
    """
    once, each = mend[0] - icl[0], icl[1] - mend[1]
    if each > 0:
        return max(1, math.ceil(once / each))
    return 1 if each == 0 and once <= 0 else None


def _heading(llm: str, table: pd.DataFrame) -> str:
    device = table.loc[table["part"] == "total", "device"].iloc[0]
    if device == "counted":
        return f"{llm} from its configuration: the paper's setting, one option"
    weights = table[table["part"] == "weights"].groupby("method")["peak_memory_bytes"].max()
    sizes = [
        f"{_size(weights[name])} for {method_display_name(name)}"
        for name in ("vanilla-icl", "mend")
        if name in weights
    ]
    return f"{llm} on {'a CPU' if device == 'cpu' else device} (weights: {', '.join(sizes)})"


def _size(value: float) -> str:
    name, unit = _unit(value, PANELS[1][2])
    return f"{value / unit:.3g} {name}"


def _unit(largest: float, units: dict[str, float]) -> tuple[str, float]:
    return next(
        ((name, unit) for name, unit in units.items() if largest >= unit), list(units.items())[-1]
    )


def _bars(
    axis: Axes, table: pd.DataFrame, column: str, title: str, units: dict[str, float]
) -> pd.DataFrame:
    """Draw one quantity: a group of bars for each partition, and the paper's as diamonds."""
    shown = table[table["part"].isin(["total", "paper"])].dropna(subset=column)
    present = list(dict.fromkeys(table["partition"]))
    partitions = [name for name in PARTITIONS if name in present]
    partitions += [name for name in present if name not in PARTITIONS]
    name, unit = _unit(shown[column].max(), units)
    width = 0.8 / len(METHODS)
    for place, method in enumerate(METHODS):
        for part in ("total", "paper"):
            rows = shown[(shown["method"] == method) & (shown["part"] == part)]
            values = rows.set_index("partition")[column].reindex(partitions) / unit
            x = [i + (place - 1) * width for i in range(len(partitions))]
            if part == "paper":
                axis.scatter(x, values, marker="D", s=9, c="black", zorder=3)
            elif values.notna().any():
                axis.bar(
                    x,
                    values,
                    width,
                    color=COLOURS[method],
                    hatch=HATCHES[method],
                    edgecolor="black",
                    linewidth=0.4,
                )
    axis.set_title(f"{title} ({name})", fontsize=8)
    axis.set_xticks(
        range(len(partitions)),
        list(map(partition_display_name, partitions)),
        rotation=30,
        ha="right",
        rotation_mode="anchor",
    )
    axis.margins(x=0.02, y=0.2)
    axis.set_ylim(bottom=0)
    if not (shown["part"] == "total").any():
        axis.set_title(f"{title} ({name}): counted, not run", fontsize=8)
    seaborn.despine(ax=axis)
    return shown.assign(panel=column, value=shown[column])


def _many_queries(axis: Axes, table: pd.DataFrame) -> pd.DataFrame:
    """Draw operations by the number of queries, mean over the partitions, and mark break-even."""
    rows = table[table["part"].isin(PREFILLS)]
    means = rows.groupby(["llm", "method", "part", "queries"], as_index=False)["flops"].mean()
    name, unit = _unit(means["flops"].max(), PANELS[0][2])
    parts = table[table["queries"] == 1].groupby(["method", "part"])["flops"].mean()
    found = []
    for part, (line, meaning) in PREFILLS.items():
        for method in METHODS:
            values = means[(means["method"] == method) & (means["part"] == part)]
            axis.plot(
                values["queries"],
                values["flops"] / unit,
                line,
                color=COLOURS[method],
                marker=MARKERS[method],
                markersize=2.5,
                linewidth=1,
            )
        costs = {method: _once_and_each(parts[method], part) for method in METHODS}
        queries = break_even(costs["vanilla-icl"], costs["mend"])
        found.append((meaning, part, queries))
        if queries is not None and queries <= means["queries"].max():
            once, each = costs["mend"]
            cost = (once + queries * each) / unit
            axis.plot(queries, cost, "o", ms=8, mfc="none", mec="black", zorder=4)
    axis.set(xscale="log", yscale="log", xlabel="n, queries after one context")
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter("{x:g}")
    said = [f"{queries or 'never'} ({meaning})" for meaning, _, queries in found]
    title = (
        f"Operations of n queries ({name}); MEND needs no more\nthan ICL from n = {', '.join(said)}"
    )
    axis.set_title(title, fontsize=8)
    seaborn.despine(ax=axis)
    marks = pd.DataFrame(
        [
            {"llm": means["llm"].iloc[0], "panel": "break-even", "part": part, "queries": queries}
            for _, part, queries in found
        ]
    )
    return pd.concat([means.assign(panel="queries", value=means["flops"]), marks])


def _once_and_each(parts: pd.Series, prefill: str) -> tuple[float, float]:
    """Return what a method's context costs once, and each query, for one way of prefilling."""
    distillation, context, query = (parts[name] for name in ("distillation", "context", "query"))
    if prefill == "cached":
        return distillation + context, query
    return distillation, context + query


def _legend(figure, table: pd.DataFrame) -> None:
    handles = [
        Patch(
            facecolor=COLOURS[name],
            hatch=HATCHES[name],
            edgecolor="black",
            linewidth=0.4,
            label=method_display_name(name),
        )
        for name in METHODS
    ]
    handles += [
        Line2D([], [], color="black", linestyle=style, linewidth=1, label=f"context {meaning}")
        for style, meaning in PREFILLS.values()
    ]
    circle = {"marker": "o", "markersize": 7, "markerfacecolor": "none"}
    handles.append(Line2D([], [], color="black", linestyle="", label="break-even", **circle))
    if (table["part"] == "paper").any():
        diamond = {"marker": "D", "markersize": 3, "label": "the paper's figure 3"}
        handles.append(Line2D([], [], color="black", linestyle="", **diamond))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=7)


def _write_values(figure) -> None:
    """Write bars' values over them in every panel where no two of them would overlap."""
    for axis in figure.axes:
        if not axis.containers:
            continue
        texts = [
            text
            for bars in axis.containers
            for text in axis.bar_label(bars, fmt="%.3g", fontsize=5, rotation=90, padding=2)
        ]
        marks = [point for marks in axis.collections for point in _diamonds(axis, marks)]
        boxes = [text.get_window_extent() for text in texts]
        if _overlap(boxes) or any(box.contains(*mark) for box in boxes for mark in marks):
            for text in texts:
                text.remove()


def _diamonds(axis: Axes, marks) -> Sequence[Sequence[float]]:
    return axis.transData.transform(marks.get_offsets().compressed().reshape(-1, 2))


def _overlap(boxes: Sequence) -> bool:
    return any(
        box.overlaps(other) for number, box in enumerate(boxes) for other in boxes[number + 1 :]
    )
