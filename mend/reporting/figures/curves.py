"""Training curves: losses and dev scores by step, a picture for each LLM and stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO

import numpy as np
import seaborn
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from mend.configuration.choices import STAGES
from mend.configuration.display_names import PAPER_METHODS, method_display_name
from mend.reporting.figures.styles import line_styles
from mend.reporting.training_costs import Record

QUANTITIES = {
    "distill": "Distillation loss (KL, nats)",
    "clm": "Language-modelling loss (nats)",
    "pred": "Prediction loss (nats)",
    "dev_score": "Dev score (%)",
}
"""What training writes, besides the gradients' norm and the weighted sum."""

MANY = (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)
"""Ticks within a power of ten, where a log scale shows little more than one."""

POINTS = 80
"""Of a line at most; a point is the mean of its share of the steps."""

Run = tuple[Record, Sequence[Mapping[str, float]]]


def draw_curves(runs: Sequence[Run]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (LLM, stage, PNG) of each LLM and stage.

    A panel for each loss and the dev score. A line is a method as it is configured, the mean over
    the partitions that are trained apart, until the first of them stops; thin lines of its colour
    are its variants in the studies.
    """
    methods = list(dict.fromkeys([*PAPER_METHODS, *(record["method"] for record, _ in runs)]))
    of_names = line_styles(map(method_display_name, methods))
    styles = {
        name: {key: of_names[method_display_name(name)][key] for key in ("color", "linestyle")}
        for name in methods
    }
    for llm in dict.fromkeys(record["llm"] for record, _ in runs):
        for stage in STAGES:
            groups: dict[tuple[str, str], list] = {}
            for record, metrics in runs:
                if (record["llm"], record["stage"]) == (llm, stage) and metrics:
                    key = (record["method"], record.get("variant", "default"))
                    groups.setdefault(key, []).append(metrics)
            if groups:
                yield llm, stage, _picture(groups, styles)


def _picture(groups: Mapping[tuple[str, str], list], styles: Mapping[str, Mapping]) -> bytes:
    shown = [
        name
        for name in QUANTITIES
        if any(name in row for runs in groups.values() for metrics in runs for row in metrics)
    ]
    # Variants first, so that the methods as configured are drawn over them.
    ordered = sorted(groups.items(), key=lambda item: item[0][1] == "default")
    drawn = [name for name in styles if name in {method for method, _ in groups}]
    with pyplot.rc_context({"font.size": 8, "axes.titlesize": 8}):
        figure, axes = pyplot.subplots(
            1,
            len(shown),
            figsize=(3.1 * len(shown), 2.7),
            squeeze=False,
            layout="constrained",
        )
        for axis, name in zip(axes[0], shown, strict=True):
            for (method, variant), runs in ordered:
                steps, values = _mean(runs, name)
                main = variant == "default"
                axis.plot(
                    steps,
                    values,
                    **styles[method],
                    linewidth=1.6 if main else 0.6,
                    alpha=1 if main else 0.5,
                )
            _finish(axis, name)
        handles = [
            Line2D([], [], **styles[name], linewidth=1.6, label=method_display_name(name))
            for name in drawn
        ]
        if any(variant != "default" for _, variant in groups):
            handles.append(Line2D([], [], color="grey", linewidth=0.6, label="variants of studies"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        buffer = BytesIO()
        figure.savefig(buffer, dpi=200, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()


def _mean(runs: Sequence[Sequence[Mapping]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the mean over runs of a quantity, at steps that all have, at most `POINTS`."""
    by_step = [{row["step"]: row[name] for row in metrics if name in row} for metrics in runs]
    steps = sorted(set.intersection(*map(set, by_step)))
    values = [np.mean([found[step] for found in by_step]) for step in steps]
    parts = max(1, min(POINTS, len(steps)))
    halves = zip(np.array_split(steps, parts), np.array_split(values, parts), strict=True)
    pairs = np.array([(part.mean(), value.mean()) for part, value in halves if len(part)])
    return (pairs[:, 0], pairs[:, 1]) if len(pairs) else (np.array([]), np.array([]))


def _finish(axis: Axes, name: str) -> None:
    axis.set_title(QUANTITIES[name])
    axis.set_xlabel("Step")
    if name != "dev_score" and axis.dataLim.height > 0 and axis.dataLim.y0 > 0:
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        few = (1, 2, 5) if high / low < 100 else (1,)
        axis.yaxis.set_major_locator(LogLocator(subs=MANY if high / low < 5 else few))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    seaborn.despine(ax=axis)
