"""Checks of the studies and figures of a configuration, beyond its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mend.configuration.claims import Claim
from mend.configuration.runs import (
    STAGES,
    parse_settings,
    study_axes,
    study_points,
    uses_distiller,
)
from mend.configuration.schema import check_settings, closest
from mend.display_names import method_display_name
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


def check_studies(values: Mapping[str, Any]) -> None:
    """Raise UserError, naming the key, for a study or a figure that cannot be made."""
    for name in (*values["studies"], *values.get("figures", {})):
        if name in TAKEN:
            raise UserError(f"{name}: the workflow makes something else of this name; rename it")
    for study in values["studies"]:
        _check_shape(values, study)
        _check_settings(values, study)
    for figure, studies in values.get("figures", {}).items():
        for study in studies:
            if study not in values["studies"]:
                raise UserError(
                    f"figures.{figure}: {study} is not in studies"
                    f"{closest(study, values['studies'])}; "
                    f"there are {', '.join(values['studies'])}"
                )
            if "vary" not in values["studies"][study]:
                raise UserError(f"figures.{figure}: studies.{study} varies nothing to be drawn")
        if figure in values["studies"]:
            raise UserError(f"figures.{figure}: a study has this name; choose another")
    for part in ("efficiency", "attention"):
        for name in values.get(part, {}).get("llms", ()):
            if name not in values["llms"]:
                raise UserError(
                    f"{part}.llms: {name} is not in llms{closest(name, values['llms'])}"
                )


def longest_lengths(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the largest l that the studies give each method that they give one."""
    longest: dict[str, int] = {}
    for study in values["studies"]:
        for _, method, variant, _, _ in study_points(values, study):
            length = parse_settings(variant).get("length", 0)
            longest[method] = max(longest.get(method, 0), length)
    return longest


def _check_shape(values: Mapping[str, Any], study: str) -> None:
    content, place = values["studies"][study], f"studies.{study}"
    if ("runs" in content) == ("methods" in content):
        raise UserError(f"{place}: give either methods or runs")
    if study == "table2" or content.get("layout") == "matrix":
        for key in ("runs", "vary", "set", "reference"):
            if key in content:
                raise UserError(
                    f"{place}.{key}: its rows are methods as they are configured, and differences "
                    "those of its claims; leave this out, or make another study"
                )
    for label, run in content.get("runs", {}).items():
        if run["method"] not in values["methods"]:
            raise UserError(
                f"{place}.runs.{label}.method: {run['method']} is not in methods"
                f"{closest(run['method'], values['methods'])}; "
                f"there are {', '.join(values['methods'])}"
            )
    for axis, labels in content.get("vary", {}).items():
        if axis in COLUMNS:
            raise UserError(f"{place}.vary.{axis}: every table has such a column; rename the axis")
        if not isinstance(labels, (list, Mapping)) or not labels:
            raise UserError(f"{place}.vary.{axis}: neither a list of values nor named settings")
        if isinstance(labels, Mapping) and not all(
            isinstance(settings, Mapping) for settings in labels.values()
        ):
            raise UserError(
                f"{place}.vary.{axis}: each name needs its settings, such as {{shots: 4}}, or {{}}"
            )
    points = [("reference", content.get("reference") or {})]
    if "context_share_of" in content:
        points.append(("context_share_of", {"run": content["context_share_of"]}))
    for number, claim in enumerate(content.get("claims", ())):
        key = f"claims[{number}]"
        if set(claim["higher"]) != set(claim["lower"]):
            raise UserError(f"{place}.{key}: higher and lower must name the same axes")
        try:
            pairs = Claim(**claim).pairs()
        except UserError as error:
            raise UserError(f"{place}.{key}: {error}") from None
        for higher, lower in pairs:
            points += [(f"{key}.higher", higher), (f"{key}.lower", lower)]
    axes = {name: list(labels) for name, labels in study_axes(values, study).items()}
    # A claim about a method that the study leaves out is not judged.
    left_out = [] if "runs" in content else list(map(method_display_name, values["methods"]))
    for key, point in points:
        for axis, label in point.items():
            if axis not in axes:
                raise UserError(
                    f"{place}.{key}: there is no axis {axis}; there are {', '.join(axes)}"
                )
            also = left_out if axis == "run" and key.startswith("claims") else []
            if label not in [*axes[axis], *also]:
                known = ", ".join(map(str, axes[axis]))
                raise UserError(f"{place}.{key}.{axis}: {label} is not one of {known}")
    if "context_share_of" in content and "vary" not in content:
        raise UserError(f"{place}.context_share_of: the study varies nothing to be drawn (vary)")


def _check_settings(values: Mapping[str, Any], study: str) -> None:
    benchmark = values["benchmark"]
    for axis, labels in study_axes(values, study).items():
        for label, settings in labels.items():
            if axis != "run":  # the schema knows those of runs
                check_settings(settings, ["studies", study, "vary", axis, str(label)])
    for llm, method, variant, condition, _ in study_points(values, study):
        how = parse_settings(condition)
        place = f"studies.{study}"
        template = how.get("template")
        if template and template not in values.get("templates", {}):
            raise UserError(
                f"{place}: there is no template {template}; "
                f"templates has {', '.join(values.get('templates', {})) or 'none'}"
            )
        selection = how.get("selection", "train")
        if how["shots"] > 16 and selection == "train":
            raise UserError(
                f"{place}: {how['shots']} shots, but the training files have 16 rows; "
                "add selection: pool, bm25 or dense"
            )
        if selection == "dense" and "dense_retrieval" not in benchmark:
            raise UserError(f"{place}: selection dense needs benchmark.dense_retrieval")
        if "group" in how and not uses_distiller(method):
            raise UserError(f"{place}: {method} does not distil; leave group out for it")
        if _untrained(variant):
            raise UserError(
                f"{place}: {method} with {llm} is neither pretrained nor finetuned; "
                "leave one stage in"
            )


def _untrained(variant: str) -> bool:
    settings = parse_settings(variant)
    return all(stage in settings and settings[stage] is None for stage in STAGES)
