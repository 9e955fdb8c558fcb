"""What pictures share: a method has the same colour, marker and line in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pyarrow
import seaborn

from mend.atomic_io import atomic_file, write_parquet
from mend.configuration.display_names import PAPER_METHODS, method_display_name

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.artist import Artist  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import LogLocator, NullLocator  # noqa: E402

COLOURS = (
    *seaborn.color_palette("colorblind", 5).as_hex(),
    "#333333",
    "#882255",
    "#6b6b00",
    "#7a4b1e",
    "#8a8a8a",
)
"""Of the methods, and of other runs: the palette's other colours are too pale for lines."""

MANY = (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)
"""Ticks within a power of ten, where a log scale shows little more than one."""

MARKERS = "os^DvPX*<>"
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line (as of matplotlib) of methods and of runs with these names.

    Names are those that pictures show (`method_display_name`).
    """
    known = [method_display_name(name) for name in reversed(PAPER_METHODS)]
    every = [*known, *(name for name in dict.fromkeys(names) if name not in known)]
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            # Other markers, where colours come again.
            "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
            "linestyle": LINES[i % len(LINES)],
        }
        for i, name in enumerate(every)
    }


def legend_columns(handles: Sequence[Artist], width: float) -> int:
    """Return how many names of a legend stand side by side in so many inches, at 8 points."""
    # A letter is some 0.065 inches wide, the line before a name half an inch.
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    return max(1, min(len(handles), int(width / (0.065 * longest + 0.5))))


def log_scale(axis: Axes) -> None:
    """Give a panel a log scale upwards, with ticks at round numbers; what is drawn is above 0."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    few = (1, 2, 5) if high / low < 100 else (1,)
    axis.yaxis.set_major_locator(LogLocator(subs=MANY if high / low < 5 else few))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def write_picture(
    figure: Figure, png: str | Path, drawn: pd.DataFrame, parquet: str | Path | None
) -> None:
    """Write a figure, the same bytes each time, and what is drawn (if asked for); close it."""
    with atomic_file(png) as temporary:
        figure.savefig(temporary, dpi=300, format="png", metadata={"Software": "mend"})
    pyplot.close(figure)
    if parquet is not None:
        write_parquet(pyarrow.Table.from_pandas(drawn, preserve_index=False), parquet)
