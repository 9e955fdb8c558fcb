"""What HTML pages share: the template engine, names of partitions, and drawn intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mend.configuration.task_list import PARTITION_LABELS
from mend.errors import UserError

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> Markup:
    """A template of `templates/` as markup; whatever is not markup itself is escaped."""
    return Markup(_ENVIRONMENT.get_template(template).render(**values))


def page_content(path: str | Path, level: int) -> Markup:
    """What a page that was made of `base.html.j2` shows, its first heading of the level `level`.

    Raises UserError if the file is not such a page.
    """
    page = Path(path).read_text(encoding="utf-8")
    found = re.search(r"<main>(.*)</main>", page, re.DOTALL)
    if not found:
        raise UserError(f"{path}: not a page of a table; delete it, so that it is made again")

    def deeper(heading: re.Match) -> str:
        return f"<{heading[1]}h{int(heading[2]) + level - 1}"

    return Markup(re.sub(r"<(/?)h([1-6])\b", deeper, found[1]))


def partition_label(name: str) -> str:
    """`class_to_class` as `Class→Class`; `AVG` stays."""
    return PARTITION_LABELS.get(name, name)


def named_tasks(tasks: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Partitions with the names of some of their tasks, for a sentence."""
    return [(partition_label(name), ", ".join(names)) for name, names in tasks.items() if names]


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
