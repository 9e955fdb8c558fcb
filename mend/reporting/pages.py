"""What tables and their pages share: files, the template engine, and drawn intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow
from markupsafe import Markup

from mend.atomic_io import write_parquet, write_text
from mend.configuration.display_names import (
    method_display_name,
    partition_display_name,
    stage_display_name,
)
from mend.evaluation.statistics import to_csv

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "method": method_display_name,
    "partition": partition_display_name,
    "stage": stage_display_name,
}


def render(template: str, **values: Any) -> Markup:
    """A template of `templates/` as markup; whatever is not markup itself is escaped."""
    return Markup(_ENVIRONMENT.get_template(template).render(**values))


def page(title: str, section: Markup) -> Markup:
    """A page of its own for a section."""
    return render("page.html.j2", title=title, section=section)


def write_table(
    table: pd.DataFrame,
    page: str,
    csv: str | Path,
    parquet: str | Path,
    html: str | Path,
    text: pd.DataFrame | None = None,
) -> None:
    """Write a table as `csv` and `parquet`, and its page; `text`: what the CSV has instead."""
    write_parquet(pyarrow.Table.from_pandas(table, preserve_index=False), parquet)
    write_text(page, html)
    write_text(to_csv(table if text is None else text), csv)


def paper_text(cell: Mapping[str, Any] | None) -> str:
    """The paper's mean and deviation; it prints none where it is 0 by construction."""
    if cell is None:
        return ""
    std = cell.get("std")
    return f"{cell['mean']:.2f}" + (f" ±{std:.2f}" if std and not math.isnan(std) else "")


def marks(means: Sequence[float]) -> list[str]:
    """`best`, `second` or an empty string for each method of a column.

    Compared as displayed, with two decimals. Equal numbers share a mark; `second` is the next
    lower number.
    """
    shown = [round(mean, 2) for mean in means]
    distinct = sorted(set(shown), reverse=True)
    names = dict(zip(distinct, ("best", "second"), strict=False))
    return [names.get(mean, "") for mean in shown]


def drawing_scale(ends: Iterable[float]) -> Callable[[float], float]:
    """A function from a number to its place in a drawing 200 wide that shows 0 and all `ends`."""
    ends = [0.0, *ends]
    low, high = min(ends), max(ends)
    width = (high - low) or 1
    return lambda value: round(10 + 180 * (value - low) / width, 1)
