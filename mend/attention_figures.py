"""Figures 5 and 8: what the induction heads look at, and which heads they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy
import pandas as pd
import pyarrow
import seaborn

from mend.data.partitions import PARTITION_LABELS
from mend.errors import UserError
from mend.labels import method_label
from mend.records import whole_file, write_parquet

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.patches import Patch, Rectangle  # noqa: E402

#: Perceptually uniform, and rising in lightness: it reads in grey print.
COLOURS = "viridis"
#: Marks what is pointed at, on light and on dark cells.
MARK = seaborn.color_palette("colorblind")[3]
METHODS = ("vanilla-icl", "mend")
SHOWN_HEADS = 4
LONGEST_WORD = 14


def draw_heads(parquets: Iterable[str | Path], png: str | Path, parquet: str | Path) -> None:
    """Draw the induction score of every head (figure 8), a panel for each LLM.

    See `mend.attention.induction_scores`; of an encoder-decoder they are cross-attention heads. The
    heads of figure 5 are marked. parquets: what `mend.attention.run_attention` wrote.
    The Parquet has what is drawn: llm, layer, head, value. Raises UserError if there is nothing.
    """
    table = _read(parquets)
    table = table[table["kind"] == "induction"]
    grids = {
        llm: rows.pivot(index="layer", columns="head", values="value")
        for llm, rows in table.groupby("llm", sort=False)
    }
    rows = max(len(grid) for grid in grids.values())
    with pyplot.rc_context({"font.size": 8}):
        figure, axes = pyplot.subplots(
            *(1, len(grids)),
            squeeze=False,
            figsize=(max(3.4, min(7.2, 2.9 * len(grids))), min(5.0, 2.0 + 0.17 * rows)),
            layout="constrained",
        )
        highest = float(table["value"].max())
        for axis, (llm, grid) in zip(axes[0], grids.items(), strict=True):
            image = axis.imshow(grid, cmap=COLOURS, vmin=0, vmax=highest, aspect="auto")
            for layer, head in _best(grid):
                corner = (head - 0.45, layer - 0.45)
                inside = Rectangle(corner, 0.9, 0.9, fill=False, edgecolor=MARK, linewidth=1.5)
                axis.add_patch(inside)
            axis.set(title=llm, xlabel="head")
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes[0, 0].set_ylabel("layer")
        figure.colorbar(image, ax=list(axes[0]), label="induction score")
        mark = Patch(facecolor="none", edgecolor=MARK, linewidth=1.5, label="the four in figure 5")
        figure.legend(handles=[mark], loc="outside lower center", frameon=False)
        _save(figure, png)
    _write(table[["llm", "layer", "head", "value"]], parquet)


def draw_attention(parquets: Iterable[str | Path], png: str | Path, parquet: str | Path) -> None:
    """Draw what the 4 best induction heads look at with vanilla ICL and with MEND (figure 5).

    For each LLM one query word by word, and the mean over the test rows; the context, pooled, is
    marked off. At the right is the share of attention on the whole context, of a decoder-only LLM
    out of all (an encoder-decoder's decoder attends to the context apart, so that it is all).
    parquets: what `mend.attention.run_attention` wrote, of which the Parquet has what is drawn.
    Raises UserError if there is nothing.
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
            block.suptitle(f"{llm}, {PARTITION_LABELS.get(partition, partition)}", fontsize=9)
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
        _save(figure, png)
    _write(table, parquet)


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
        *(cells, COLOURS), vmin=0, vmax=highest, aspect="auto", interpolation="nearest"
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
    axis.set_title(f"{method_label(method)}: {what}", fontsize=8, loc="left", parse_math=False)
    first = widest + 1
    if kind == "example":
        words = rows[(rows["region"] == "query")].drop_duplicates("position")
        labels = [_short(word) for word in words.sort_values("position")["token"]]
    else:
        labels = [str(position - query.shape[1]) for position in range(query.shape[1])]
    axis.set_xticks([*range(first, first + len(labels))], labels, parse_math=False)
    if kind == "example":
        axis.tick_params(axis="x", rotation=90 if len(labels) > 10 else 30)
    if kind == "mean":
        _write_shares(axis, table, method, heads)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return image


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
    """Return the (layer, head) of the highest scores, as `mend.attention.best_heads` does."""
    return list(grid.stack().sort_values(ascending=False, kind="stable").index[:SHOWN_HEADS])


def _read(parquets: Iterable[str | Path]) -> pd.DataFrame:
    table = pd.concat([pd.read_parquet(path) for path in parquets], ignore_index=True)
    if table.empty:
        raise UserError("figures 5 and 8: no attention was recorded; name an LLM")
    return table


def _save(figure, png: str | Path) -> None:
    with whole_file(png) as temporary:
        figure.savefig(temporary, dpi=300, format="png", metadata={"Software": None})
    pyplot.close(figure)


def _write(table: pd.DataFrame, parquet: str | Path) -> None:
    write_parquet(pyarrow.Table.from_pandas(table, preserve_index=False), parquet)
