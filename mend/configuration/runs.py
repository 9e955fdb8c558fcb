"""Runs and studies: which LLM, method, settings, partition and condition each number comes from.

A study is a list of runs, each named by what differs from its method's configuration (see
`mend.configuration.paths`), so that equal runs have equal names and studies share them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mend.configuration.choices import ALL_PARTITIONS, STAGES
from mend.configuration.methods import MethodSettings, make_method, method_class
from mend.configuration.paths import JobPath, parse_settings, settings_text
from mend.configuration.schema import (
    EVALUATION,
    RUN_STAGES,
    SELECT,
    TRAINING_SEED,
    ConfigurationValues,
    Settings,
    given,
)
from mend.configuration.specs.run import MethodSource
from mend.errors import UserError

if TYPE_CHECKING:
    from mend.configuration.loading import Configuration

SettingsByKey = dict[str, Any]
"""Settings of a run by dotted keys, such as {"finetune.losses.distill": 1.0}."""

NOT_SET: SettingsByKey = {key: "train" if key == "selection" else None for key in EVALUATION}
"""What a condition's settings are where a run does not say."""


@dataclass(frozen=True)
class Run:
    """One run of a study; each field is a part of the path of its predictions."""

    llm: str
    method: str
    variant: str
    partition: str
    condition: str

    @property
    def path(self) -> JobPath:
        """The job that predicts."""
        names = (self.llm, self.method, self.variant, self.partition, self.condition)
        return JobPath("predict", *names)

    @property
    def folder(self) -> str:
        """Where the run's predictions are, below the results folder."""
        return str(self.path).rpartition("/")[0]


class StudyPoint(NamedTuple):
    """What a study runs at one of its points, on each of its partitions.

    training_seed: of which training; values: the point, {axis: value}, beginning with the axis
    `run`.
    """

    llm: str
    method: str
    variant: str
    condition: str
    training_seed: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class MethodSetup:
    """A method as one run has it: its own settings, and those of the stages that train it.

    seed: of the training of all its stages.
    """

    name: str
    own: MethodSettings
    stages: Mapping[str, Settings]
    seed: int


def method_setup(values: ConfigurationValues, llm: str, method: str, variant: str) -> MethodSetup:
    """Return a method's part of the configuration for an LLM, with a variant's settings over it.

    Its stages are complete: `training`, then the LLM's own, the method's and the variant's.
    A stage that the method does not have, or that the variant sets to none, is not there.
    Of candidates for a setting it has the first.
    """
    found = _merged(values, llm, method)
    settings = parse_settings(variant)
    seed = settings.pop(TRAINING_SEED, values.training.seed)
    for key, value in settings.items():
        *parents, last = key.split(".")
        place = found
        for parent in parents:
            place = place[parent]
        value = value[0] if isinstance(value, list) else value
        if last in STAGES and value is None:
            del place[last]
        else:
            place[last] = value
    stages = {
        stage: RUN_STAGES[stage].model_validate(found.pop(stage))
        for stage in STAGES
        if stage in found
    }
    own = make_method(MethodSource(name=method, settings=found))
    return MethodSetup(method, own, stages, seed)


def _merged(values: ConfigurationValues, llm: str, method: str) -> dict[str, Any]:
    """Return a method's own settings and, by their names, those of its stages."""
    of_method, of_llm = values.methods[method], values.llms[llm]
    shared, own = of_llm.training, of_llm.methods.get(method)
    found = of_method.model_dump(exclude={*STAGES, SELECT})
    for stage in STAGES:
        if getattr(of_method, stage):
            found[stage] = {}
            for part in (values.training, shared, of_method, own):
                if part and getattr(part, stage):
                    found[stage] |= given(getattr(part, stage))
    return found


def split_settings(
    values: ConfigurationValues,
    llm: str,
    method: str,
    settings: Mapping[str, Any],
    select: Mapping[str, list] | None = None,
) -> tuple[str, str]:
    """Return the variant and the condition that settings of a study come to.

    select: a study's candidates for settings, which stand over the method's own. A setting that
    has a value is not chosen. What the method does not have (the length of zero-shot, its training
    seed) and what is as configured anyway is left out, so that equal runs have equal names.
    """
    candidates = {**given(values.methods[method].select), **(select or {})}
    to_choose = {
        key: of_key
        for key, of_key in candidates.items()
        if key not in settings and has_setting(values, llm, method, key)
    }
    condition = {"shots": values.benchmark.shots}
    for key, default in NOT_SET.items():
        value = settings.get(key, default)
        if value is not None and (key == "shots" or value != default):
            condition[key] = value
    return _variant(values, llm, method, {**to_choose, **settings}), settings_text(condition)


def has_setting(values: ConfigurationValues, llm: str, method: str, key: str) -> bool:
    """Whether a method is trained with a setting; with a loss, if that weighs anything."""
    *parents, last = key.split(".")
    place: Any = _merged(values, llm, method)
    for parent in parents:
        place = place.get(parent, {})
    return bool(place.get(last)) if "losses" in parents else last in place


def _variant(
    values: ConfigurationValues, llm: str, method: str, settings: Mapping[str, Any]
) -> str:
    """Return the variant of settings: without those that change nothing."""
    own = _merged(values, llm, method)
    removed = [key for key in STAGES if key in own and settings.get(key, "") is None]
    if any(stage in own for stage in STAGES):
        own["training"] = {"seed": values.training.seed}
    variant: SettingsByKey = dict.fromkeys(removed)
    for key, value in settings.items():
        *parents, last = key.split(".")
        if key in EVALUATION or key in STAGES or (parents and parents[0] in removed):
            continue
        place: Any = own
        for parent in parents:
            place = place.get(parent, {})
        # A loss that is left out weighs 0; any other key that is not there is not the method's.
        configured = place.get(last, 0 if place and "losses" in parents else value)
        if configured != value:
            variant[key] = value
    return settings_text(variant)


def candidates(
    values: ConfigurationValues, llm: str, method: str, variant: str
) -> dict[str, SettingsByKey]:
    """Return what a variant is chosen among: each candidate's own variant and chosen settings.

    The first candidates for each setting come first. A variant that leaves nothing to choose is its
    only candidate.
    """
    settings = parse_settings(variant)
    lists = {key: value for key, value in settings.items() if isinstance(value, list)}
    if not lists:
        return {variant: {}}
    found: dict[str, SettingsByKey] = {}
    for combination in itertools.product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        found.setdefault(_variant(values, llm, method, {**settings, **chosen}), chosen)
    return found


def usual_variant(values: ConfigurationValues, llm: str, method: str) -> str:
    """Return the variant of a method as table 2 has it, with the training seed of `training`."""
    return split_settings(values, llm, method, {}, given(values.studies["table2"].select))[0]


def training_shots(values: ConfigurationValues) -> int:
    """Return how many demonstrations a training episode has."""
    return values.training.finetune.shots or values.benchmark.shots


def default_condition(values: ConfigurationValues) -> str:
    """Return the condition of table 2."""
    return settings_text({"shots": values.benchmark.shots})


def attention_runs(values: ConfigurationValues) -> list[tuple[str, str, str, str]]:
    """Return (LLM, method, variant, condition) of each run that figures 5 and 8 look at."""
    llms = values.attention.llms if values.attention else ()
    condition = default_condition(values)
    return [(llm, "mend", usual_variant(values, llm, "mend"), condition) for llm in llms]


def trained_stages(
    values: ConfigurationValues, llm: str, method: str, variant: str, partition: str
) -> list[str]:
    """Return the folders of a run's trained stages below the results folder, in their order.

    Of a run that is chosen, those of all its candidates.
    """
    stages = [
        str(JobPath("train", llm, method, candidate, partition, stage=stage))
        for candidate in candidates(values, llm, method, variant)
        for stage in method_setup(values, llm, method, candidate).stages
    ]
    return list(dict.fromkeys(stages))


def candidate_folders(
    values: ConfigurationValues, llm: str, method: str, variant: str, partition: str
) -> list[str]:
    """Return the folder of the last stage of each candidate of a run, below the results folder."""
    return [
        trained_stages(values, llm, method, candidate, partition)[-1]
        for candidate in candidates(values, llm, method, variant)
    ]


def chosen_folder(
    values: ConfigurationValues, llm: str, method: str, variant: str, partition: str
) -> str | None:
    """Return the folder of what is chosen for a run; None if there is nothing to choose."""
    several = len(candidates(values, llm, method, variant)) > 1
    return str(JobPath("choose", llm, method, variant, partition)) if several else None


def weights_folder(
    values: ConfigurationValues, llm: str, method: str, variant: str, partition: str
) -> str | None:
    """Return the folder, below the results folder, of the weights that a run is predicted with.

    None if its method is not trained.
    """
    run = (values, llm, method, variant, partition)
    stages = trained_stages(*run)
    return chosen_folder(*run) or (stages[-1] if stages else None)


def study_axes(values: ConfigurationValues, study: str) -> dict[str, dict[Any, SettingsByKey]]:
    """Return a study's axes: {axis: {value: settings}}, beginning with the axis `run`.

    Training seeds are no axis: every point has them all.

    The settings of a value of `run` hold the key `method`.
    """
    content = values.studies[study]
    if content.runs:
        runs = {name: given(settings) for name, settings in content.runs.items()}
    else:
        names = content.methods or ()
        runs = {method_class(name).display_name: {"method": name} for name in names}
    axes: dict[str, dict[Any, SettingsByKey]] = {"run": runs}
    for name, points in content.axes.items():
        named = isinstance(points, Mapping)
        axes[name] = dict(points) if named else {value: {name: value} for value in points}
    return axes


def training_seeds(values: ConfigurationValues, study: str) -> list[int]:
    """Return the seeds of training over which a study's numbers are means."""
    return values.studies[study].vary.get(TRAINING_SEED, [values.training.seed])


def study_points(values: ConfigurationValues, study: str) -> Iterator[StudyPoint]:
    """Yield each point of a study, once for each training seed: a method that is not trained is
    the same for all of them."""
    content = values.studies[study]
    axes, seeds = study_axes(values, study), training_seeds(values, study)
    for llm, *point, seed in itertools.product(content.llms, *axes.values(), seeds):
        settings = {**given(content.set), TRAINING_SEED: seed}
        # Last of all the run, the first axis: what it fixes is not varied.
        for axis, value in reversed([*zip(axes.values(), point, strict=True)]):
            settings.update(axis[value])
        settings = {key: None if value == "none" else value for key, value in settings.items()}
        method = settings.pop("method")
        variant, condition = split_settings(values, llm, method, settings, given(content.select))
        place = dict(zip(axes, point, strict=True))
        yield StudyPoint(llm, method, variant, condition, seed, place)


def study_runs(configuration: Configuration, study: str) -> list[Run]:
    """Return the runs of a study, each once: a point on one partition, or on all if it is not
    finetuned."""
    values = configuration.values
    content = values.studies[study]
    partitions = [name for name in content.partitions if name in configuration.needs]
    if not partitions:
        raise UserError(f"studies.{study}.partitions: none of them has its tasks")
    runs = []
    for llm, method, variant, condition, *_ in study_points(values, study):
        finetuned = "finetune" in method_setup(values, llm, method, variant).stages
        for partition in partitions if finetuned else [ALL_PARTITIONS]:
            runs.append(Run(llm, method, variant, partition, condition))
    return list(dict.fromkeys(runs))


def divergence_runs(configuration: Configuration, study: str, llm: str) -> list[Run]:
    """Return a study's runs with an LLM whose divergence from the demonstrations is measured.

    All but those that read all demonstrations as tokens, which is what the teacher does.
    """

    def is_teacher(run: Run) -> bool:
        setup = method_setup(configuration.values, run.llm, run.method, run.variant)
        return setup.own.has_context and setup.own.kind == "tokens"

    runs = study_runs(configuration, study)
    return [run for run in runs if run.llm == llm and not is_teacher(run)]
