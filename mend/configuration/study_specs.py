"""Specifications of the jobs that turn the predictions of a study into tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mend.configuration.loading import Configuration
from mend.configuration.runs import DEFAULT, STAGES, method_settings, study_axes, study_points

_COUNTING = ("metrics", "task_mean", "excluded_test_tasks", "drop_tasks_in_both")


def study_specification(configuration: Configuration, study: str) -> dict[str, Any]:
    """Return the specification of a study's table: its axes, its runs, and what is compared."""
    content = configuration["studies"][study]
    axes = study_axes(configuration, study)
    return {
        "name": study,
        "title": content.get("title", study),
        **_common(configuration, study),
        "axes": [{"name": name, "values": list(values)} for name, values in axes.items()],
        "runs": [
            dict(zip(("llm", "method", "variant", "condition", "values"), point, strict=True))
            for point in study_points(configuration, study)
        ],
        "set": content.get("set", {}),
        "reference": content.get("reference"),
        "claims": content.get("claims", []),
        "score": content.get("score", "mean"),
        "context_share_of": content.get("context_share_of"),
        "paper": content.get("paper"),
    }


def table2_specification(configuration: Configuration) -> dict[str, Any]:
    """Return the specification of table 2, the study that is laid out as the paper has it."""
    return {
        **_common(configuration, "table2"),
        "methods": configuration["studies"]["table2"]["methods"],
        "shots": configuration["benchmark"]["shots"],
    }


def table1_specification(configuration: Configuration, reading: Iterable[str]) -> dict[str, Any]:
    """Return the specification of table 1: each side of each partition and what reads its rows."""
    llms = configuration["studies"]["table2"]["llms"]
    keys = ("path", "revision", "local_files_only")
    return {
        "command": command(configuration, f"{configuration.results}/table1.csv"),
        "llms": [{"name": name, **only(configuration["llms"][name], keys)} for name in llms],
        "partitions": {
            partition: {side: list(names) for side, names in roles.items()}
            for partition, roles in configuration.needs.items()
        },
        "seeds": configuration["benchmark"]["seeds"],
        "benchmark": configuration["benchmark"]["tasks"]["source"],
        "protocol": only(configuration["protocol"], reading),
    }


def table5_specification(configuration: Configuration) -> dict[str, Any]:
    """Return the specification of table 5: the settings of each stage of table 2's methods."""
    study = configuration["studies"]["table2"]
    runs = []
    for llm in study["llms"]:
        source = configuration["llms"][llm]
        shared = {"dtype": source.get("dtype", "float32"), "int8": source.get("int8", False)}
        for method in study["methods"]:
            settings = method_settings(configuration, llm, method, DEFAULT)
            for stage in (name for name in STAGES if name in settings):
                of_stage = {"length": settings["length"], **settings[stage], **shared}
                runs.append(
                    {"llm": llm, "method": method, "stage": stage, "settings": flat(of_stage)}
                )
    return {
        "command": command(configuration, f"{configuration.results}/table5.csv"),
        "runs": runs,
        "seed": configuration["training"]["seed"],
    }


def flat(settings: Any, before: str = "") -> dict[str, Any]:
    """Return nested settings with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{before}{key}."))
        else:
            found[f"{before}{key}"] = value
    return found


def command(configuration: Configuration, target: str) -> str:
    """Return the command that makes a target with this configuration."""
    text = f"snakemake --cores all {target}"
    if configuration.files and list(configuration.files) != ["config.yaml"]:
        text += f" --configfile {' '.join(configuration.files)}"
    return text


def _common(configuration: Configuration, study: str) -> dict[str, Any]:
    content, benchmark = configuration["studies"][study], configuration["benchmark"]
    spec = {
        "command": command(configuration, f"{configuration.results}/{study}.csv"),
        "llms": [
            {"name": name, "paper_llm": configuration["llms"][name].get("paper_llm")}
            for name in content["llms"]
        ],
        "partitions": content["partitions"],
        "seeds": benchmark["seeds"],
        "task_list": benchmark["task_list"],
        "benchmark": benchmark["tasks"]["source"],
        "protocol": only(configuration["protocol"], _COUNTING),
    }
    skipped = {
        partition: sorted(set(names) - set(configuration.needs.get(partition, {}).get("test", ())))
        for partition, names in configuration.listed_test_tasks.items()
        if partition in content["partitions"]
    }
    return {**spec, "skipped": {key: names for key, names in skipped.items() if names}}


def only(values: Any, keys: Iterable[str]) -> dict[str, Any]:
    """Return the part of a mapping with these keys, as far as they are there."""
    return {key: values[key] for key in keys if key in values}
