"""Learning curves: losses and dev scores of a study's trainings by the examples that were seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd
import seaborn
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mend.configuration.choices import ALL_PARTITIONS, STAGES
from mend.configuration.display_names import stage_display_name
from mend.configuration.paths import pretraining_variant
from mend.configuration.settings import read_spec
from mend.configuration.specs.reporting import StudyRun, StudySpec
from mend.errors import UserError
from mend.reporting.figures.lines import Series, lines_of, mean_and_range
from mend.reporting.figures.styles import legend_columns, line_styles, log_scale, write_picture
from mend.reporting.metrics import read_metrics
from mend.reporting.training_costs import Record, read_record

QUANTITIES = {
    "distill": "Distillation loss (KL, nats)",
    "clm": "Language-modelling loss (nats)",
    "pred": "Prediction loss (nats)",
    "choice": "Loss of the choice (nats)",
    "dev_score": "Dev score (%)",
}
"""What training writes, besides the gradients' norm and the weighted sum."""

EXAMPLES = {"pretrain": "Examples seen (chunks)", "finetune": "Examples seen (episodes)"}

POINTS = 80
"""Of a line at most; a point is the mean of its share of the steps."""

BAND = 0.2
"""How opaque the range over training seeds is."""

Training = tuple[str, str, str, str, str]
"""LLM, method, stage, variant and partition (empty in pretraining) of a training."""

Metrics = Mapping[Training, Mapping[str, Series]]
"""Of each training the quantities by the examples that were seen."""


def write_learning_curves(
    spec_file: str | Path,
    trainings: Iterable[str | Path],
    choices: Iterable[str | Path],
    png: str | Path,
    parquet: str | Path,
) -> None:
    """Draw how a study's runs were trained: a row of panels for each LLM and stage.

    trainings: their folders, with record.json and metrics.jsonl; choices: those with the
    record.json of what dev scores chose, where the curve is that of the chosen candidate.
    A panel has a quantity of `QUANTITIES`, and a line for each training that the study's points
    come to: the mean over partitions, until the first of them stops, and training seeds, with their
    range. The Parquet has what is drawn: llm, stage, line, quantity, examples, mean, low, high and
    training_seeds. Raises UserError if nothing is trained, or a record does not say how many
    examples a step had.
    """
    spec = read_spec(spec_file, StudySpec)
    metrics = dict(map(_read_training, trainings))
    chosen = {
        tuple(record.get(key) for key in ("llm", "method", "variant", "partition")): record
        for record in (read_record(Path(folder, "record.json")) for folder in choices)
    }
    tables = list(_curves(spec, metrics, chosen))
    if not tables:
        raise UserError(f"studies.{spec.name}: nothing is trained, so there are no learning curves")
    _draw(pd.concat(tables, ignore_index=True), spec, png, parquet)


def _read_training(folder: str | Path) -> tuple[Training, dict[str, Series]]:
    record = read_record(Path(folder, "record.json"))
    rows = read_metrics(Path(folder, "metrics.jsonl"))
    steps, examples = record.get("steps"), record.get("examples")
    if not steps or not examples:
        raise UserError(f"{folder}/record.json: it has no steps and examples; train again")
    names = (record.get(key) or "" for key in ("llm", "method", "stage", "variant", "partition"))
    found = {}
    for name in QUANTITIES:
        own = [row for row in rows if name in row]
        seen = [row["step"] * examples / steps for row in own]
        found[name] = (seen, [row[name] for row in own])
    return tuple(names), found


def _curves(
    spec: StudySpec, metrics: Metrics, chosen: Mapping[tuple, Record]
) -> Iterator[pd.DataFrame]:
    """Yield the table of each line of each panel."""
    for llm in spec.llms:
        for stage in STAGES:

            def trained(run: StudyRun, stage: str = stage) -> frozenset[Training] | None:
                wanted = {_training(spec, run, stage, name, chosen) for name in spec.partitions}
                return frozenset(wanted & metrics.keys()) or None

            for line, by_seed in lines_of(spec, llm.name, trained).items():
                for quantity in QUANTITIES:
                    found = mean_and_range(
                        {
                            seed: [metrics[training][quantity] for training in sorted(of_seed)]
                            for seed, of_seed in by_seed.items()
                        },
                        POINTS,
                    )
                    if len(found["x"]):
                        same = {"llm": llm.name, "stage": stage, "line": line, "quantity": quantity}
                        table = pd.DataFrame(found).rename(columns={"x": "examples"})
                        yield table.assign(**same, training_seeds=len(set(by_seed.values())))


def _training(
    spec: StudySpec, run: StudyRun, stage: str, partition: str, chosen: Mapping[tuple, Record]
) -> Training:
    """Return the training of a run's stage: that of the chosen candidate, if there are several."""
    variant = run.variant
    for name in (partition, ALL_PARTITIONS):
        if record := chosen.get((run.llm, run.method, run.variant, name)):
            variant = str(record.get("chosen"))
    if stage == "pretrain":
        return run.llm, run.method, stage, pretraining_variant(variant), ""
    return run.llm, run.method, stage, variant, partition


def _draw(table: pd.DataFrame, spec: StudySpec, png: str | Path, parquet: str | Path) -> None:
    lines = list(table["line"].unique())
    named = [name for name in map(str, spec.axis_values["run"]) if name in lines]
    lines = [*named, *(name for name in lines if name not in named)]
    styles = {
        name: {key: style[key] for key in ("color", "linestyle")}
        for name, style in line_styles(lines).items()
    }
    rows = list(table.groupby(["llm", "stage"], sort=False))
    shown = [[name for name in QUANTITIES if name in {*own["quantity"]}] for _, own in rows]
    columns = max(map(len, shown))
    with pyplot.rc_context({"font.size": 8, "axes.titlesize": 8}):
        size = (max(3.1 * columns, 4.5), 2.5 * len(rows) + 0.4)
        figure = pyplot.figure(figsize=size, layout="constrained")
        blocks = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for block, ((llm, stage), own), quantities in zip(blocks, rows, shown, strict=True):
            block.suptitle(f"{stage_display_name(stage)}, {llm}", fontsize=9, parse_math=False)
            axes = block.subplots(1, columns, squeeze=False)[0]
            for axis in axes[len(quantities) :]:
                axis.set_visible(False)
            for axis, quantity in zip(axes, quantities, strict=False):
                of_panel = own[own["quantity"] == quantity]
                for name in (line for line in lines if line in {*of_panel["line"]}):
                    part = of_panel[of_panel["line"] == name]
                    axis.plot(part["examples"], part["mean"], linewidth=1.4, **styles[name])
                    if part["training_seeds"].iloc[0] > 1:
                        ends = (part["examples"], part["low"], part["high"])
                        axis.fill_between(*ends, color=styles[name]["color"], alpha=BAND, lw=0)
                axis.set_xlabel(EXAMPLES[stage])
                _finish(axis, quantity)
        handles: list = [
            Line2D([], [], linewidth=1.4, label=name, **styles[name]) for name in lines
        ]
        if (seeds := table["training_seeds"].max()) > 1:
            band = {"facecolor": "grey", "alpha": 2 * BAND, "linewidth": 0}
            handles.append(Patch(label=f"range over {seeds} seeds", **band))
        names = legend_columns(handles, size[0])
        figure.legend(handles=handles, loc="outside lower center", ncols=names, frameon=False)
        order = ["llm", "stage", "line", "quantity", "examples", "mean", "low", "high"]
        write_picture(figure, png, table[[*order, "training_seeds"]], parquet)


def _finish(axis: Axes, name: str) -> None:
    axis.set_title(QUANTITIES[name])
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    if name != "dev_score" and axis.dataLim.height > 0 and axis.dataLim.y0 > 0:
        log_scale(axis)
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    seaborn.despine(ax=axis)
