"""Checks of the studies and figures of a configuration, beyond its schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mend.configuration.choices import STAGES, TRAIN_ROWS
from mend.configuration.messages import check_settings, closest
from mend.configuration.methods import method_class
from mend.configuration.paths import parse_settings
from mend.configuration.runs import study_axes, study_points
from mend.configuration.schema import ConfigurationValues
from mend.errors import UserError

COLUMNS = (
    "llm",
    "run",
    "partition",
    "mean",
    "std",
    "ci_low",
    "ci_high",
    "tasks",
    "seeds",
    "context_length",
    "difference",
    "difference_low",
    "difference_high",
    "average_rank",
    "context_share",
)
"""Of every study's table; an axis is one more, and so has another name."""

TAKEN = ("report", "table1", "table5", "figure3", "figure5", "figure8")
"""Results that are no studies."""


def study_problems(values: ConfigurationValues) -> Iterator[str]:
    """Yield what is wrong with studies and figures that cannot be made, each with its key."""
    for name in (*values.studies, *values.figures):
        if name in TAKEN:
            yield f"{name}: the workflow makes something else of this name; rename it"
    for study in values.studies:
        try:
            _check_shape(values, study)
            _check_settings(values, study)
        except UserError as error:
            yield str(error)
    for figure, studies in values.figures.items():
        for study in studies:
            if study not in values.studies:
                yield (
                    f"figures.{figure}: {study} is not in studies{closest(study, values.studies)}; "
                    f"there are {', '.join(values.studies)}"
                )
            elif not values.studies[study].vary:
                yield f"figures.{figure}: studies.{study} varies nothing to be drawn"
        if figure in values.studies:
            yield f"figures.{figure}: a study has this name; choose another"
    for part, content in (("efficiency", values.efficiency), ("attention", values.attention)):
        for name in content.llms if content else ():
            if name not in values.llms:
                yield f"{part}.llms: {name} is not in llms{closest(name, values.llms)}"


def longest_lengths(values: ConfigurationValues) -> dict[str, int]:
    """Return the largest l that the studies give each method that they give one."""
    longest: dict[str, int] = {}
    for study in values.studies:
        for _, method, variant, _, _ in study_points(values, study):
            length = parse_settings(variant).get("length", 0)
            longest[method] = max(longest.get(method, 0), length)
    return longest


def _check_shape(values: ConfigurationValues, study: str) -> None:
    content, place = values.studies[study], f"studies.{study}"
    if bool(content.runs) == bool(content.methods):
        raise UserError(f"{place}: give either methods or runs")
    if study == "table2" or content.layout == "matrix":
        for key in ("runs", "vary", "set", "reference"):
            if key in content.model_fields_set:
                raise UserError(
                    f"{place}.{key}: its rows are methods as they are configured, and differences "
                    "those of its claims; leave this out, or make another study"
                )
    methods = values.methods.names()
    for name, run in (content.runs or {}).items():
        if run.method not in methods:
            raise UserError(
                f"{place}.runs.{name}.method: {run.method} is not in methods"
                f"{closest(run.method, methods)}; there are {', '.join(methods)}"
            )
    for axis, points in content.vary.items():
        if axis in COLUMNS:
            raise UserError(f"{place}.vary.{axis}: every table has such a column; rename the axis")
        if not points:
            raise UserError(f"{place}.vary.{axis}: must not be empty")
        if isinstance(points, Mapping) and not all(
            isinstance(settings, Mapping) for settings in points.values()
        ):
            raise UserError(
                f"{place}.vary.{axis}: each name needs its settings, such as {{shots: 4}}, or {{}}"
            )
    named: list[tuple[str, Mapping[str, Any]]] = [("reference", content.reference or {})]
    if content.context_share_of:
        named.append(("context_share_of", {"run": content.context_share_of}))
    for number, claim in enumerate(content.claims):
        key = f"claims[{number}]"
        if set(claim.higher) != set(claim.lower):
            raise UserError(f"{place}.{key}: higher and lower must name the same axes")
        try:
            pairs = claim.pairs()
        except UserError as error:
            raise UserError(f"{place}.{key}: {error}") from None
        for higher, lower in pairs:
            named += [(f"{key}.higher", higher), (f"{key}.lower", lower)]
    axes = {name: list(points) for name, points in study_axes(values, study).items()}
    # A claim about a method that the study leaves out is not judged.
    left_out = [] if content.runs else [method_class(name).display_name for name in methods]
    for key, point in named:
        for axis, value in point.items():
            if axis not in axes:
                raise UserError(
                    f"{place}.{key}: there is no axis {axis}; there are {', '.join(axes)}"
                )
            also = left_out if axis == "run" and key.startswith("claims") else []
            if value not in [*axes[axis], *also]:
                known = ", ".join(map(str, axes[axis]))
                raise UserError(f"{place}.{key}.{axis}: {value} is not one of {known}")
    if content.context_share_of and not content.vary:
        raise UserError(f"{place}.context_share_of: the study varies nothing to be drawn (vary)")


def _check_settings(values: ConfigurationValues, study: str) -> None:
    place = f"studies.{study}"
    for axis, points in study_axes(values, study).items():
        for value, settings in points.items():
            if axis != "run":  # the types know those of runs
                check_settings(settings, ["studies", study, "vary", axis, str(value)])
    for llm, method, variant, condition, _ in study_points(values, study):
        how = parse_settings(condition)
        template = how.get("template")
        if template and template not in values.templates:
            raise UserError(
                f"{place}: there is no template {template}; "
                f"templates has {', '.join(values.templates) or 'none'}"
            )
        selection = how.get("selection", "train")
        if how["shots"] > TRAIN_ROWS and selection == "train":
            raise UserError(
                f"{place}: {how['shots']} shots, but the training files have {TRAIN_ROWS} rows; "
                "add selection: pool, bm25 or dense"
            )
        if selection == "dense" and values.benchmark.dense_retrieval is None:
            raise UserError(f"{place}: selection dense needs benchmark.dense_retrieval")
        if "group" in how and not method_class(method).distils:
            raise UserError(f"{place}: {method} does not distil; leave group out for it")
        if _untrained(variant):
            raise UserError(
                f"{place}: {method} with {llm} is neither pretrained nor finetuned; "
                "leave one stage in"
            )


def _untrained(variant: str) -> bool:
    settings = parse_settings(variant)
    return all(stage in settings and settings[stage] is None for stage in STAGES)
