"""Figures 5 and 8: what the induction heads look at, and which heads they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy
import pandas as pd
import seaborn
from matplotlib import pyplot
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from mend.configuration.display_names import method_display_name, partition_display_name
from mend.data.parquet import NUMBER, REAL, TEXT, read_columns
from mend.errors import UserError
from mend.reporting.figures.styles import write_picture

COLUMNS = dict.fromkeys(["llm", "partition", "kind", "task", "method", "region", "token"], TEXT)
COLUMNS |= dict.fromkeys(["rows", "layer", "head", "position"], NUMBER) | {"value": REAL}

#: Perceptually uniform, and rising in lightness: it reads in grey print.
COLOURS = "viridis"
#: Marks what is pointed at, on light and on dark cells.
MARK = seaborn.color_palette("colorblind")[3]
METHODS = ("vanilla-icl", "mend")
SHOWN_HEADS = 4
LONGEST_WORD = 12


def draw_heads(parquets: Iterable[str | Path], png: str | Path, parquet: str | Path) -> None:
    """Draw the induction score of every head (figure 8), a panel for each LLM.

    See `mend.analysis.induction_heads.induction_scores`; of an encoder-decoder they are
    cross-attention heads. The heads of figure 5 are marked. parquets: what
    `mend.analysis.induction_heads.run_attention` wrote. The Parquet has what is drawn: llm, layer,
    head, value. Raises UserError if there is nothing.
    """
    table = _read(parquets)
    table = table[table["kind"] == "induction"]
    grids = {
        llm: rows.pivot(index="layer", columns="head", values="value")
        for llm, rows in table.groupby("llm", sort=False)
    }
    columns = min(2, len(grids))
    lines = -(-len(grids) // columns)
    tallest = max(len(grid) for grid in grids.values())
    with pyplot.rc_context({"font.size": 8}):
        figure, axes = pyplot.subplots(
            lines,
            columns,
            squeeze=False,
            figsize=(3.6 * columns, 0.3 + lines * min(4.5, 1.7 + 0.17 * tallest)),
            layout="constrained",
        )
        for axis in axes.flat[len(grids) :]:
            axis.remove()
        for axis, (llm, grid) in zip(axes.flat, grids.items(), strict=False):
            image = axis.imshow(grid, cmap=COLOURS, vmin=0, aspect="auto")
            for layer, head in _best(grid):
                corner = (head - 0.45, layer - 0.45)
                inside = Rectangle(corner, 0.9, 0.9, fill=False, edgecolor=MARK, linewidth=1.5)
                axis.add_patch(inside)
            axis.set(xlabel="head", ylabel="layer")
            axis.set_title(llm, parse_math=False)
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_locator(MaxNLocator(integer=True))
            figure.colorbar(image, ax=axis, label="induction score")
        mark = Patch(facecolor="none", edgecolor=MARK, linewidth=1.5, label="the four in figure 5")
        figure.legend(handles=[mark], loc="outside lower center", frameon=False)
        write_picture(figure, png, table[["llm", "layer", "head", "value"]], parquet)


def draw_attention(parquets: Iterable[str | Path], png: str | Path, parquet: str | Path) -> None:
    """Draw what the 4 best induction heads look at with vanilla ICL and with MEND (figure 5).

    For each LLM one query word by word, and the mean over the test rows; the context, pooled, is
    marked off. At the right is the share of attention on the whole context, of a decoder-only LLM
    out of all (an encoder-decoder's decoder attends to the context apart, so that it is all).
    parquets: what `mend.analysis.induction_heads.run_attention` wrote, of which the Parquet has
    what is drawn. Raises UserError if there is nothing.
    """
    table = _read(parquets)
    table = table[table["kind"] != "induction"]
    llms = list(table["llm"].unique())
    with pyplot.rc_context({"font.size": 7}):
        figure = pyplot.figure(figsize=(7.2, 4.9 * len(llms) + 0.4), layout="constrained")
        blocks = figure.subfigures(len(llms), 1, squeeze=False)[:, 0]
        for block, llm in zip(blocks, llms, strict=True):
            rows = table[table["llm"] == llm]
            partition = rows["partition"].iloc[0]
            block.suptitle(f"{llm}, {partition_display_name(partition)}", fontsize=9)
            axes = block.subplots(4, 1)
            highest = float(rows.loc[rows["kind"].isin(["example", "mean"]), "value"].max())
            for kind, pair in (("example", axes[:2]), ("mean", axes[2:])):
                for axis, method in zip(pair, METHODS, strict=True):
                    image = _strips(axis, rows, kind, method, highest)
            block.colorbar(image, ax=list(axes), label="attention", pad=0.09, aspect=40)
        mark = Patch(
            facecolor="none",
            edgecolor=MARK,
            linewidth=1.5,
            label="context: demonstrations (vanilla ICL) or distilled vectors (MEND), the largest "
            "attention in each position",
        )
        figure.legend(handles=[mark], loc="outside lower center", frameon=False)
        write_picture(figure, png, table, parquet)


def _strips(axis, table: pd.DataFrame, kind: str, method: str, highest: float):
    """Draw one row of cells for each head: the context, a gap, the query."""
    rows = table[(table["kind"] == kind) & (table["method"] == method)]
    heads = list(dict.fromkeys(zip(rows["layer"], rows["head"], strict=True)))
    parts = {}
    for region in ("context", "query"):
        of_region = rows[rows["region"] == region]
        grid = of_region.pivot(index=["layer", "head"], columns="position", values="value")
        parts[region] = grid.loc[heads].to_numpy()
    contexts = table[(table["kind"] == kind) & (table["region"] == "context")]
    widest = int(contexts["position"].max()) + 1
    context, query = parts["context"], parts["query"]
    # Queries of both methods start below each other, also after contexts of different length.
    empty = numpy.full((len(heads), widest - context.shape[1]), numpy.nan)
    gap = numpy.full((len(heads), 1), numpy.nan)
    cells = numpy.concatenate([empty, context, gap, query], axis=1)
    image = axis.imshow(
        cells, COLOURS, vmin=0, vmax=highest, aspect="auto", interpolation="nearest"
    )
    corner = (widest - context.shape[1] - 0.5, -0.5)
    outline = Rectangle(corner, context.shape[1], len(heads), fill=False, clip_on=False)
    outline.set(edgecolor=MARK, linewidth=1.5)
    axis.add_patch(outline)
    axis.set_yticks(range(len(heads)), [f"layer {layer}, head {head}" for layer, head in heads])
    number = int(rows["rows"].iloc[0])
    what = f"a query of {rows['task'].iloc[0]}"
    if kind == "mean":
        what = f"mean over {number} queries, last tokens of each"
    axis.set_title(
        f"{method_display_name(method)}: {what}", fontsize=8, loc="left", parse_math=False
    )
    _name_tokens(axis, rows[rows["region"] == "query"], widest + 1, kind, method)
    if kind == "mean":
        _write_shares(axis, table, method, heads)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return image


def _name_tokens(axis, query: pd.DataFrame, first: int, kind: str, method: str) -> None:
    """Name the query's cells: words below the last of the strips that share them, or numbers."""
    tokens = query.drop_duplicates("position").sort_values("position")
    if kind == "mean":
        labels, step = [f"{position:.0f}" for position in tokens["position"]], -(-len(tokens) // 12)
        places = range(len(labels) - 1, -1, -step)
    else:
        labels = [_short(word) for word in tokens["token"]]
        places = range(len(labels)) if method == METHODS[-1] else []
        axis.tick_params(axis="x", rotation=30 if len(labels) <= 10 else 90)
        axis.tick_params(axis="x", labelsize=7 if len(labels) <= 20 else 5.5)
    names = [labels[place] for place in places]
    axis.set_xticks([first + place for place in places], names, parse_math=False)


def _write_shares(axis, table: pd.DataFrame, method: str, heads: Sequence[tuple]) -> None:
    shares = table[(table["kind"] == "share") & (table["method"] == method)]
    values = shares.set_index(["layer", "head"])["value"]
    outside = {"annotation_clip": False, "xycoords": ("axes fraction", "data")}
    for place, head in enumerate(heads):
        axis.annotate(f"{values.loc[head]:.0%}", (1.01, place), va="center", **outside)
    axis.annotate("on context", (1.01, -0.6), va="bottom", **outside)


def _short(word: str) -> str:
    word = word or "␣"
    return word if len(word) <= LONGEST_WORD else f"{word[: LONGEST_WORD - 1]}…"


def _best(grid: pd.DataFrame) -> list[tuple[int, int]]:
    """Return the (layer, head) of the highest scores, as the analysis does."""
    return list(grid.stack().sort_values(ascending=False, kind="stable").index[:SHOWN_HEADS])


def _read(parquets: Iterable[str | Path]) -> pd.DataFrame:
    tables = [
        read_columns(path, COLUMNS, "heads", None, COLUMNS.keys() - {"llm", "kind"})
        for path in parquets
    ]
    table = pd.concat([one.to_pandas() for one in tables], ignore_index=True)
    if table.empty:
        raise UserError("figures 5 and 8: no attention was recorded; name an LLM")
    wanted = {("example", method) for method in METHODS} | {("mean", method) for method in METHODS}
    for llm, rows in table.groupby("llm"):
        found = set(zip(rows["kind"], rows["method"], strict=True))
        heads = rows[rows["kind"] == "induction"]
        twice = heads.duplicated(["layer", "head"]).any()
        if wanted - found or heads.empty or twice or rows["value"].isna().any():
            raise UserError(f"figures 5 and 8: {llm} is not whole; record its attention again")
    return table
