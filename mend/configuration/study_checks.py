"""Checks of the studies and figures of a configuration, beyond its schema."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from mend.configuration.choices import STAGES, TRAIN_ROWS
from mend.configuration.messages import dotted, setting_problems
from mend.configuration.methods import method_class
from mend.configuration.paths import LONGEST_FOLDER, parse_settings
from mend.configuration.results_folder import MADE
from mend.configuration.runs import (
    MethodSetup,
    candidates,
    method_setup,
    study_axes,
    study_points,
    training_seeds,
)
from mend.configuration.schema import (
    TRAINING_SEED,
    ConfigurationValues,
    StudyPicture,
    given,
)
from mend.configuration.settings import LARGEST_COUNT
from mend.configuration.words import closest, listed
from mend.errors import UserError


class VectorsRead(NamedTuple):
    """The most that an LLM reads of a method's vectors.

    length: l; groups: how many groups of demonstrations are distilled, and their l; text: tokens of
    a chunk that pretraining predicts, and the l before them.
    """

    length: int = 0
    groups: tuple[int, int] = (0, 0)
    text: tuple[int, int] = (0, 0)


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
    "context_bytes",
    "making_flops",
    "reading_flops",
    "difference",
    "difference_low",
    "difference_high",
    "average_rank",
    "context_share",
    "break_even_queries",
)
"""Of every study's table; an axis is one more, and so has another name."""

TAKEN = (
    *("report", "table1", "table5", "figure3", "figure5", "figure8", "plan"),
    "candidates",
    *("all", "tables", "figures"),
    *MADE,
)
"""Results that are no studies."""

TAKEN_ENDINGS = (".spec", ".details", ".png", *(f".{name}" for name in get_args(StudyPicture)))
"""A study's own files have these after its name."""

MOST_RUNS, MOST_CANDIDATES = 10_000, 1000
"""Of a study; and of what dev scores choose among."""


def study_problems(values: ConfigurationValues, studies: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with studies and with figures that cannot be made, each with its key.

    studies: those whose LLMs, methods and partitions there are.
    """
    for study in studies:
        # Later checks need what earlier ones allow.
        for check in (_shape, _points, _settings, _sizes, _select, _runs, _pictures):
            if problems := list(check(values, study)):
                yield from (f"studies.{study}{problem}" for problem in problems)
                break
    for figure, shown in values.figures.items():
        for study in shown:
            if study not in values.studies:
                yield (
                    f"figures.{figure}: {study} is not in studies{closest(study, values.studies)}; "
                    f"there are {listed(values.studies)}"
                )
            elif not values.studies[study].axes:
                yield f"figures.{figure}: studies.{study} varies nothing to be drawn"


def name_problems(values: ConfigurationValues) -> Iterator[str]:
    """Yield which names stand for two things, also where capitals are as good as small letters."""
    for name in (*values.studies, *values.figures):
        if name.lower() in TAKEN or name.endswith(TAKEN_ENDINGS):
            yield f"{name}: the workflow makes something else of this name; rename it"
    for name in values.templates:
        if name == "none":
            yield "templates.none: none is no template; choose another name"
    for key, names in (
        ("llms", [*values.llms]),
        ("studies and figures", [*values.studies, *values.figures]),
    ):
        lower = [name.lower() for name in names]
        if twice := [name for name in names if lower.count(name.lower()) > 1]:
            yield f"{key}: {listed(twice)} would be one file or folder; rename them"
    if "table2" not in values.studies:
        yield "studies.table2: missing; tables 1 and 5 are of its LLMs and methods"


def most_read(
    values: ConfigurationValues, runs: Iterable[tuple[str, str, str, str]]
) -> dict[tuple[str, str], VectorsRead]:
    """Return what an LLM reads at the most with a method, by (LLM, method).

    runs: (LLM, method, variant, condition) of each, without problems.
    """
    most: dict[tuple[str, str], VectorsRead] = {}
    window = values.benchmark.corpus.window
    for llm, method, variant, condition in dict.fromkeys(runs):
        how, before = parse_settings(condition), most.get((llm, method), VectorsRead())
        for candidate in candidates(values, llm, method, variant):
            setup = method_setup(values, llm, method, candidate)
            length, groups, text = setup.own.context_length or 0, (0, 0), (0, 0)
            if "group" in how:
                groups = -(-how.get("shots", values.benchmark.shots) // how["group"]), length
            if stage := setup.stages.get("pretrain"):
                text = window - min(max(1, int(stage.beta * window)), window - 1), length
            before = VectorsRead(
                max(before.length, length),
                max(before.groups, groups, key=math.prod),
                max(before.text, text, key=sum),
            )
        most[llm, method] = before
    return most


def stage_problem(values: ConfigurationValues, setup: MethodSetup) -> str | None:
    """Return what keeps a method from being trained as it is set up."""
    for stage, settings in setup.stages.items():
        examples = settings.steps * settings.batch_size
        if examples > LARGEST_COUNT:
            return (
                f"{stage}.steps times {stage}.batch_size are {examples} examples; "
                f"{LARGEST_COUNT} are the most"
            )
    return None


def _shape(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield what keeps a study from having axes."""
    content = values.studies[study]
    if bool(content.runs) == bool(content.methods):
        yield ": give either methods or runs"
    if study == "table2" or content.layout == "matrix":
        for key in ("runs", "vary", "set", "reference", "context_share_of"):
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
                f"{closest(run.method, methods)}; there are {listed(methods)}"
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
        yield f"{key}: {listed(wrong)}: seeds are whole numbers from 0 on"


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
            if higher == lower:
                yield f".{key}: it compares a point with itself; higher and lower must differ"
            named += [(f"{key}.higher", higher), (f"{key}.lower", lower)]
    axes = {name: list(points) for name, points in study_axes(values, study).items()}
    # A claim about a method that the study leaves out is not judged.
    methods = values.methods.names()
    left_out = [] if content.runs else [method_class(name).display_name for name in methods]
    for key, point in named:
        for axis, value in point.items():
            also = left_out if axis == "run" and key.startswith("claims") else []
            if axis not in axes:
                yield f".{key}: there is no axis {axis}; there are {listed(axes)}"
            elif value not in [*axes[axis], *also]:
                yield f".{key}.{axis}: {value} is not one of {listed(axes[axis])}"
    if content.context_share_of and not content.axes and "costs" not in content.pictures:
        yield ".context_share_of: the study varies nothing to be drawn (vary; or pictures: [costs])"


def _settings(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield which settings of a study's axes there are not."""
    for axis, points in study_axes(values, study).items():
        told: dict[str, str] = {}  # a key that there is not is told once, not for each value
        for value, settings in points.items():
            if axis != "run":  # the types know those of runs
                for problem in setting_problems(settings):
                    told.setdefault(problem, f".{dotted(['vary', axis, str(value)])}.{problem}")
        yield from told.values()


def _sizes(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield why a study has too many points, or points of one name."""
    content, axes = values.studies[study], study_axes(values, study)
    counts = [len(points) for points in axes.values()]
    runs = math.prod([*counts, len(content.llms), len(training_seeds(values, study))])
    if runs > MOST_RUNS:
        yield f".vary: its axes make {runs} runs, and {MOST_RUNS} are the most"
        return
    for llm, method in itertools.product(values.llms, values.methods.names()):
        select = {**given(values.methods[method].select), **given(content.select)}
        found = math.prod(len(of_key) for of_key in select.values())
        if found > MOST_CANDIDATES:
            yield (
                f".select: {method} with {llm} would be trained in {found} ways, and "
                f"{MOST_CANDIDATES} are the most"
            )
            return
    names = [", ".join(map(str, point)) for point in itertools.product(*axes.values())]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        yield f": two of its points are called {twice}; rename values"


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
    content = values.studies[study]
    if study == "table2" and not any(values.methods[name].is_trained() for name in content.methods):
        yield ".methods: none of them is trained, and table 5 is of those that are; add one"
    seen = set()
    for llm, method, variant, condition, _, place in study_points(values, study):
        if place["run"] == content.context_share_of and not method_class(method).has_context:
            yield f".context_share_of: {place['run']} reads nothing before a query"
            return
        if (llm, method, variant, condition) in seen:
            continue
        seen.add((llm, method, variant, condition))
        longest = max(len(part.encode()) for part in (variant, condition))
        if longest > LONGEST_FOLDER:
            yield (
                f": the settings of a run with {method} are {longest} letters, too long for the "
                f"name of its folder ({LONGEST_FOLDER} at most); vary or select fewer at once"
            )
            return
        if problem := run_problem(values, llm, method, variant, parse_settings(condition)):
            yield f": {problem}"
            return


def _pictures(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield which pictures would have nothing to show."""
    setups = [
        method_setup(values, point.llm, point.method, point.variant)
        for point in study_points(values, study)
    ]
    if "learning-curves" in values.studies[study].pictures and not any(s.stages for s in setups):
        yield ".pictures: learning-curves: none of its runs is trained; leave it out"
    others = any(not s.own.has_context or s.own.kind != "tokens" for s in setups)
    if "divergence" in values.studies[study].pictures and not others:
        yield ".pictures: divergence: all of its runs read demonstrations themselves; leave it out"
    kept = any(s.own.has_context for s in setups)
    if "costs" in values.studies[study].pictures and not kept:
        yield ".pictures: costs: none of its runs has a context; leave it out"


def run_problem(
    values: ConfigurationValues, llm: str, method: str, variant: str, condition: Mapping[str, Any]
) -> str | None:
    """Return why a run cannot be made; None if it can."""
    template, selection = condition.get("template"), condition.get("selection", "train")
    if template and template not in values.templates:
        known = listed(values.templates)
        return f"there is no template {template}; templates has {known}"
    if condition["shots"] > TRAIN_ROWS and selection == "train":
        return (
            f"{condition['shots']} shots, but the training files have {TRAIN_ROWS} rows; "
            "add selection: pool, bm25 or dense"
        )
    if selection == "dense" and values.benchmark.dense_retrieval is None:
        return "selection dense needs benchmark.dense_retrieval"
    try:
        own = method_setup(values, llm, method, variant).own
    except UserError as error:  # settings that are right each, and not together
        return str(error)
    of_key_values = own.kind == "key-values" and own.context_length is None
    if of_key_values and values.protocol.demonstration_overflow == "oldest-tokens":
        return (
            f"{method} makes keys and values, of which no oldest tokens can fall off for each "
            "option; set protocol.demonstration_overflow to omit or cut-input"
        )
    if "group" in condition and not (own.distils and own.kind == "vectors"):
        return f"{method} does not distil demonstrations into vectors; leave group out for it"
    if _distils_nothing(values, llm, method, variant):
        return (
            f"{method} with {llm} would distil nothing in finetuning: llms.{llm}.query_in: encoder "
            "leaves no token of the query to predict, and protocol.distill_in_finetuning: input "
            "distils no other; set that to input-and-output, or query_in to decoder"
        )
    if _untrained(variant):
        return f"{method} with {llm} is neither pretrained nor finetuned; leave one stage in"
    for candidate in candidates(values, llm, method, variant):
        if problem := stage_problem(values, method_setup(values, llm, method, candidate)):
            return f"{method} with {llm}: {problem}"
    return _weightless(values, llm, method, variant) or _unscored(values, llm, method, variant)


def _weightless(values: ConfigurationValues, llm: str, method: str, variant: str) -> str | None:
    """Return which stage of a variant, or of a candidate of it, would be trained by no loss."""
    for candidate in candidates(values, llm, method, variant):
        for stage, settings in method_setup(values, llm, method, candidate).stages.items():
            losses = settings.losses
            if unknown := sorted(losses.own.keys() - method_class(method).own_losses.keys()):
                loss = f"{stage}.losses.{unknown[0]}"
                return f"{loss} is another method's own; leave it out for {method}"
            if not any(losses.model_dump().values()):
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
