"""Checks of the studies and figures of a configuration, beyond its schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mend.configuration.choices import STAGES, TRAIN_ROWS
from mend.configuration.messages import closest, dotted, setting_problems
from mend.configuration.methods import method_class
from mend.configuration.paths import parse_settings
from mend.configuration.runs import candidates, method_setup, study_axes, study_points
from mend.configuration.schema import TRAINING_SEED, ConfigurationValues, given
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
    "training_seeds",
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


def study_problems(values: ConfigurationValues, studies: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with studies and with figures that cannot be made, each with its key.

    studies: those whose LLMs, methods and partitions there are.
    """
    for name in (*values.studies, *values.figures):
        if name in TAKEN:
            yield f"{name}: the workflow makes something else of this name; rename it"
    for study in studies:
        # Later checks need what earlier ones allow.
        for check in (_shape, _points, _settings, _select, _runs):
            if problems := list(check(values, study)):
                yield from (f"studies.{study}{problem}" for problem in problems)
                break
    for figure, shown in values.figures.items():
        for study in shown:
            if study not in values.studies:
                yield (
                    f"figures.{figure}: {study} is not in studies{closest(study, values.studies)}; "
                    f"there are {', '.join(values.studies)}"
                )
            elif not values.studies[study].axes:
                yield f"figures.{figure}: studies.{study} varies nothing to be drawn"
        if figure in values.studies:
            yield f"figures.{figure}: a study has this name; choose another"
    for part, content in (("efficiency", values.efficiency), ("attention", values.attention)):
        for name in content.llms if content else ():
            if name not in values.llms:
                yield f"{part}.llms: {name} is not in llms{closest(name, values.llms)}"


def longest_lengths(values: ConfigurationValues, studies: Iterable[str]) -> dict[str, int]:
    """Return the largest l that studies without problems give each method that they give one."""
    longest: dict[str, int] = {}
    for study in studies:
        for point in study_points(values, study):
            for candidate in candidates(values, point.llm, point.method, point.variant):
                length = parse_settings(candidate).get("length", 0)
                longest[point.method] = max(longest.get(point.method, 0), length)
    return longest


def most_groups(
    values: ConfigurationValues, studies: Iterable[str]
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return for each LLM and method that studies distil in groups their number and l.

    Of several the pair with the most vectors. studies: those without problems.
    """
    most: dict[tuple[str, str], tuple[int, int]] = {}
    for study in studies:
        for point in study_points(values, study):
            how = parse_settings(point.condition)
            if "group" not in how:
                continue
            groups = -(-how.get("shots", values.benchmark.shots) // how["group"])
            for candidate in candidates(values, point.llm, point.method, point.variant):
                own = values.methods[point.method].vectors or 0
                found = groups, parse_settings(candidate).get("length", own)
                key = point.llm, point.method
                most[key] = max(most.get(key, (0, 0)), found, key=lambda pair: pair[0] * pair[1])
    return most


def _shape(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield what keeps a study from having axes."""
    content = values.studies[study]
    if bool(content.runs) == bool(content.methods):
        yield ": give either methods or runs"
    if study == "table2" or content.layout == "matrix":
        for key in ("runs", "vary", "set", "reference"):
            if key in content.model_fields_set and (key != "vary" or content.axes):
                also = f", or vary {TRAINING_SEED} alone" if key == "vary" else ""
                yield (
                    f".{key}: its rows are methods as they are configured, and differences those "
                    f"of its claims; leave this out{also}, or make another study"
                )
    methods = values.methods.names()
    for name, run in (content.runs or {}).items():
        if run.method not in methods:
            yield (
                f".runs.{name}.method: {run.method} is not in methods"
                f"{closest(run.method, methods)}; there are {', '.join(methods)}"
            )
    for axis, points in content.vary.items():
        if axis in COLUMNS:
            yield f".vary.{axis}: every table has such a column; rename the axis"
        if not points:
            yield f".vary.{axis}: must not be empty"
        if axis == TRAINING_SEED:
            yield from _training_seeds(points)
        elif isinstance(points, Mapping) and not all(
            isinstance(settings, Mapping) for settings in points.values()
        ):
            yield f".vary.{axis}: each name needs its settings, such as {{shots: 4}}, or {{}}"


def _training_seeds(seeds: Any) -> Iterator[str]:
    """Yield what is wrong with the seeds of training that a study varies."""
    key = f".vary.{TRAINING_SEED}"
    if isinstance(seeds, Mapping):
        yield f"{key}: numbers are means over these seeds, which have no names; write [0, 1, 2]"
        return
    wrong = [seed for seed in seeds if setting_problems({TRAINING_SEED: seed})]
    if wrong:
        yield f"{key}: {', '.join(map(str, wrong))}: seeds are whole numbers from 0 on"
    elif len(set(seeds)) < len(seeds):
        yield f"{key}: {', '.join(map(str, seeds))} has a seed twice; write each once"


def _points(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield which points a study names and has not."""
    content = values.studies[study]
    named: list[tuple[str, Mapping[str, Any]]] = [("reference", content.reference or {})]
    if content.context_share_of:
        named.append(("context_share_of", {"run": content.context_share_of}))
    for number, claim in enumerate(content.claims):
        key = f"claims[{number}]"
        if set(claim.higher) != set(claim.lower):
            yield f".{key}: higher and lower must name the same axes"
            continue
        try:
            pairs = claim.pairs()
        except UserError as error:
            yield f".{key}: {error}"
            continue
        for higher, lower in pairs:
            named += [(f"{key}.higher", higher), (f"{key}.lower", lower)]
    axes = {name: list(points) for name, points in study_axes(values, study).items()}
    # A claim about a method that the study leaves out is not judged.
    methods = values.methods.names()
    left_out = [] if content.runs else [method_class(name).display_name for name in methods]
    for key, point in named:
        for axis, value in point.items():
            also = left_out if axis == "run" and key.startswith("claims") else []
            if axis not in axes:
                yield f".{key}: there is no axis {axis}; there are {', '.join(axes)}"
            elif value not in [*axes[axis], *also]:
                yield f".{key}.{axis}: {value} is not one of {', '.join(map(str, axes[axis]))}"
    if content.context_share_of and not content.axes:
        yield ".context_share_of: the study varies nothing to be drawn (vary)"


def _settings(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield which settings of a study's axes there are not."""
    for axis, points in study_axes(values, study).items():
        told: dict[str, str] = {}  # a key that there is not is told once, not for each value
        for value, settings in points.items():
            if axis != "run":  # the types know those of runs
                for problem in setting_problems(settings):
                    told.setdefault(problem, f".{dotted(['vary', axis, str(value)])}.{problem}")
        yield from told.values()


def _select(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield which settings a study leaves to be chosen and cannot."""
    content = values.studies[study]
    points = list(study_points(values, study))
    for key in given(content.select):
        varied = any(
            key in settings
            for axis, points_of_axis in study_axes(values, study).items()
            if axis != "run"
            for settings in points_of_axis.values()
        )
        if key in given(content.set) or varied:
            where = "set" if key in given(content.set) else "vary"
            yield f".select.{key}: {where} says what it is; leave it out of one of them"
        elif not any(isinstance(parse_settings(p.variant).get(key), list) for p in points):
            yield (
                f".select.{key}: no run of the study is trained with it, or each says what it is; "
                "leave it out"
            )


def _runs(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield why a run of a study cannot be made, the first reason alone: others are often alike."""
    for llm, method, variant, condition, *_ in study_points(values, study):
        if problem := _run_problem(values, llm, method, variant, parse_settings(condition)):
            yield f": {problem}"
            return


def _run_problem(
    values: ConfigurationValues, llm: str, method: str, variant: str, condition: Mapping[str, Any]
) -> str | None:
    template, selection = condition.get("template"), condition.get("selection", "train")
    if template and template not in values.templates:
        known = ", ".join(values.templates) or "none"
        return f"there is no template {template}; templates has {known}"
    if condition["shots"] > TRAIN_ROWS and selection == "train":
        return (
            f"{condition['shots']} shots, but the training files have {TRAIN_ROWS} rows; "
            "add selection: pool, bm25 or dense"
        )
    if selection == "dense" and values.benchmark.dense_retrieval is None:
        return "selection dense needs benchmark.dense_retrieval"
    if "group" in condition and not method_class(method).distils:
        return f"{method} does not distil; leave group out for it"
    if _distils_nothing(values, llm, method, variant):
        return (
            f"{method} with {llm} would distil nothing in finetuning: llms.{llm}.query_in: encoder "
            "leaves no token of the query to predict, and protocol.distill_in_finetuning: input "
            "distils no other; set that to input-and-output, or query_in to decoder"
        )
    if _untrained(variant):
        return f"{method} with {llm} is neither pretrained nor finetuned; leave one stage in"
    return _weightless(values, llm, method, variant) or _unscored(values, llm, method, variant)


def _weightless(values: ConfigurationValues, llm: str, method: str, variant: str) -> str | None:
    """Return which stage of a variant, or of a candidate of it, would be trained by no loss."""
    for candidate in candidates(values, llm, method, variant):
        for stage, settings in method_setup(values, llm, method, candidate).stages.items():
            losses = settings.losses
            if not any((losses.distill, losses.clm, losses.pred)):
                return (
                    f"all weights of {stage}.losses of {method} with {llm} are 0 ({candidate}); "
                    f"give one a weight, or leave the stage out with {stage}: none"
                )
    return None


def _unscored(values: ConfigurationValues, llm: str, method: str, variant: str) -> str | None:
    """Return why dev scores cannot choose among a variant's candidates, if there are several."""
    found = candidates(values, llm, method, variant)
    if len(found) < 2:
        return None
    stage, settings = list(method_setup(values, llm, method, variant).stages.items())[-1]
    if settings.early_stopping:
        return None
    chosen = ", ".join(next(iter(found.values())))
    return (
        f"dev scores are to choose {chosen} of {method} with {llm} (select), and training.{stage}."
        "early_stopping is null, so that there are none; set it, such as {every: 2000, patience: "
        "5, rows_per_task: 16}, or leave select out"
    )


def _distils_nothing(values: ConfigurationValues, llm: str, method: str, variant: str) -> bool:
    if (values.llms[llm].query_in, values.protocol.distill_in_finetuning) != ("encoder", "input"):
        return False
    setups = [
        method_setup(values, llm, method, candidate)
        for candidate in candidates(values, llm, method, variant)
    ]
    return any(
        setup.stages["finetune"].losses.distill for setup in setups if "finetune" in setup.stages
    )


def _untrained(variant: str) -> bool:
    settings = parse_settings(variant)
    return all(stage in settings and settings[stage] is None for stage in STAGES)
