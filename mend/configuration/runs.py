"""Runs and studies: which LLM, method, settings, partition and condition each number comes from.

A study is a list of runs. A run is named by what differs from its method's configuration: its
*variant* is what differs in training (`length=4,pretrain.beta=0.5`, or `default`), its *condition*
how it is evaluated (`selection=bm25,shots=16`). Both are parts of paths and can be read back, so a
path says all about a run, and studies share what their runs have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mend.code_hash import reached_modules
from mend.display_names import method_display_name
from mend.errors import UserError

if TYPE_CHECKING:
    from mend.configuration.loading import Configuration

UNTRAINED = "all"
"""The partition of runs that are not finetuned: one job for the tasks of all partitions."""

DEFAULT = "default"
STAGES = ("pretrain", "finetune")
DRAWING = ("shots", "selection")
"""Settings of a condition that decide which demonstrations are drawn."""

CONDITION_DEFAULTS: dict[str, Any] = {
    "shots": None,
    "selection": "train",
    "perturbation": None,
    "template": None,
    "longest_context": None,
    "group": None,
}

Settings = dict[str, Any]
Values = "Configuration | Mapping[str, Any]"
"""A configuration, or the mapping that it is made of."""


@dataclass(frozen=True)
class Run:
    """One run of a study; each field but the last is a part of the path of its predictions.

    values: the run's place in the study, {axis: value}, beginning with the axis `run`.
    """

    llm: str
    method: str
    variant: str
    partition: str
    condition: str
    values: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Where the run's predictions are, below the results folder."""
        parts = (self.llm, self.method, self.variant, self.partition, self.condition)
        return f"runs/{'/'.join(parts)}"


def uses_distiller(method: str) -> bool:
    """Whether the file of a method leads to mend/models/distiller.py."""
    return "mend.models.distiller" in reached_modules(f"mend.methods.{method.replace('-', '_')}")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as a part of a path, such as `length=4,pretrain.beta=0.5`."""
    return ",".join(f"{key}={_text(settings[key])}" for key in sorted(settings)) or DEFAULT


def parse_settings(text: str) -> Settings:
    """Return the settings that `settings_text` wrote."""
    if text == DEFAULT:
        return {}
    parts = [part.partition("=") for part in text.split(",")]
    return {key: _value(value) for key, _, value in parts}


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(text: str) -> Any:
    words = {"none": None, "true": True, "false": False}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def method_settings(values: Values, llm: str, method: str, variant: str) -> Settings:
    """Return a method's part of the configuration for an LLM, with a variant's settings over it.

    Its stages are complete: `training`, then the LLM's own, the method's and the variant's.
    A stage that the method does not have, or that the variant sets to none, is not there.
    """
    of_method = values["methods"][method]
    of_llm = values["llms"][llm]
    shared, own = of_llm.get("training", {}), of_llm.get("methods", {}).get(method, {})
    found = {key: value for key, value in of_method.items() if key not in STAGES}
    for stage in STAGES:
        if stage in of_method:
            base = {**values["training"][stage], **shared.get(stage, {})}
            found[stage] = {**base, **of_method[stage], **own.get(stage, {})}
            found[stage]["losses"] = dict(found[stage]["losses"])
    for key, value in parse_settings(variant).items():
        *parents, last = key.split(".")
        place = found
        for parent in parents:
            place = place[parent]
        if last in STAGES and value is None:
            del place[last]
        else:
            place[last] = value
    return found


def split_settings(
    values: Values, llm: str, method: str, settings: Mapping[str, Any]
) -> tuple[str, str]:
    """Return the variant and the condition that settings of a study come to.

    What the method does not have (the length of zero-shot) and what is as configured anyway is
    left out, so that equal runs have equal names.
    """
    own = method_settings(values, llm, method, DEFAULT)
    removed = [key for key in STAGES if key in own and settings.get(key, "") is None]
    variant: Settings = dict.fromkeys(removed)
    for key, value in settings.items():
        *parents, last = key.split(".")
        if key in CONDITION_DEFAULTS or key in STAGES or (parents and parents[0] in removed):
            continue
        place: Any = own
        for parent in parents:
            place = place.get(parent, {})
        # A loss that is left out weighs 0; any other key that is not there is not the method's.
        configured = place.get(last, 0 if place and "losses" in parents else value)
        if configured != value:
            variant[key] = value
    condition = {"shots": values["benchmark"]["shots"]}
    for key, default in CONDITION_DEFAULTS.items():
        value = settings.get(key, default)
        if value is not None and (key == "shots" or value != default):
            condition[key] = value
    return settings_text(variant), settings_text(condition)


def draw_of(condition: str) -> str:
    """Return the part of a condition that draws demonstrations: the name of their folder."""
    settings = parse_settings(condition)
    return settings_text({key: settings[key] for key in DRAWING if key in settings})


def default_condition(values: Values) -> str:
    """Return the condition of table 2."""
    return settings_text({"shots": values["benchmark"]["shots"]})


def pretraining_variant(variant: str) -> str:
    """Return the part of a variant that pretraining depends on: its stage is shared by it."""
    settings = parse_settings(variant)
    return settings_text(
        {key: value for key, value in settings.items() if key.split(".")[0] != "finetune"}
    )


def trained_stages(
    values: Values, llm: str, method: str, variant: str, partition: str
) -> list[str]:
    """Return the folders of a run's trained stages below the results folder, in their order."""
    run = f"runs/{llm}/{method}"
    folders = {
        "pretrain": f"{run}/{pretraining_variant(variant)}/pretrain",
        "finetune": f"{run}/{variant}/{partition}/finetune",
    }
    settings = method_settings(values, llm, method, variant)
    return [folder for stage, folder in folders.items() if stage in settings]


def study_axes(values: Values, study: str) -> dict[str, dict[Any, Settings]]:
    """Return a study's axes: {axis: {value: settings}}, beginning with the axis `run`.

    The settings of a value of `run` hold the key `method`.
    """
    content = values["studies"][study]
    if "runs" in content:
        runs = {label: dict(settings) for label, settings in content["runs"].items()}
    else:
        runs = {method_display_name(name): {"method": name} for name in content["methods"]}
    axes: dict[str, dict[Any, Settings]] = {"run": runs}
    for name, labels in content.get("vary", {}).items():
        named = isinstance(labels, Mapping)
        axes[name] = dict(labels) if named else {value: {name: value} for value in labels}
    return axes


def study_points(values: Values, study: str) -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    """Yield (LLM, method, variant, condition, {axis: value}) of each point of a study."""
    content = values["studies"][study]
    axes = study_axes(values, study)
    for llm in content["llms"]:
        for labels in itertools.product(*axes.values()):
            settings = dict(content.get("set", {}))
            # Last of all the run, the first axis: what it fixes is not varied.
            for axis, label in reversed([*zip(axes.values(), labels, strict=True)]):
                settings.update(axis[label])
            settings = {key: None if value == "none" else value for key, value in settings.items()}
            method = settings.pop("method")
            variant, condition = split_settings(values, llm, method, settings)
            yield llm, method, variant, condition, dict(zip(axes, labels, strict=True))


def study_runs(configuration: Configuration, study: str) -> list[Run]:
    """Return the runs of a study: a point on one partition, or on all if it is not finetuned."""
    content = configuration["studies"][study]
    partitions = [name for name in content["partitions"] if name in configuration.needs]
    if not partitions:
        raise UserError(f"studies.{study}.partitions: none of them has its tasks")
    runs = []
    for llm, method, variant, condition, values in study_points(configuration, study):
        finetuned = "finetune" in method_settings(configuration, llm, method, variant)
        for partition in partitions if finetuned else [UNTRAINED]:
            runs.append(Run(llm, method, variant, partition, condition, values))
    return runs
