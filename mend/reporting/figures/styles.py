"""What pictures share: a method has the same colour, marker and line in all of them."""

from __future__ import annotations

from collections.abc import Iterable
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
from matplotlib.figure import Figure  # noqa: E402

COLOURS = (
    *seaborn.color_palette("colorblind", 5).as_hex(),
    "#333333",
    "#882255",
    "#6b6b00",
    "#7a4b1e",
    "#8a8a8a",
)
"""Of the methods, and of other runs: the palette's other colours are too pale for lines."""

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
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[i % len(LINES)],
        }
        for i, name in enumerate(every)
    }


def write_picture(
    figure: Figure, png: str | Path, drawn: pd.DataFrame, parquet: str | Path | None
) -> None:
    """Write a figure, the same bytes each time, and what is drawn (if asked for); close it."""
    with atomic_file(png) as temporary:
        figure.savefig(temporary, dpi=300, format="png", metadata={"Software": "mend"})
    pyplot.close(figure)
    if parquet is not None:
        write_parquet(pyarrow.Table.from_pandas(drawn, preserve_index=False), parquet)
