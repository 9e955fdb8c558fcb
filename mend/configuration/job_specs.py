"""Specifications: what each job is told, and no more, so that a change reruns only what it must.

A specification's path, relative to the results folder and without `.spec.json`, says which job it
is for; it is written beside what the job makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mend.configuration.loading import Configuration
from mend.configuration.report_spec import report_specification
from mend.configuration.runs import (
    DEFAULT,
    UNTRAINED,
    draw_of,
    method_settings,
    parse_settings,
    uses_distiller,
)
from mend.configuration.settings import Settings
from mend.configuration.study_specs import (
    only,
    study_specification,
    table1_specification,
    table5_specification,
)
from mend.configuration.teachers import finetuning_teacher, pretraining_teacher
from mend.errors import UserError

_READING = (
    "longest_context",
    "separators",
    "demonstration_overflow",
    "example_truncation",
    "longest_example",
)
_DISTILLING = ("projection", "placeholder_position", "placeholder_initialisation")
_LEARNING = ("llm_dropout_in_training", "distill_first_token", "prediction_loss")
_SCORING = ("option_score",)
#: Settings of a stage that decide what its job is given, and not what it does.
_NOT_OF_THE_JOB = ("queries_per_episode", "teacher_cache")


def specification(configuration: Configuration, path: str) -> Any:
    """Return the specification of the job at a path; raises UserError if there is no such job."""
    match path.split("/"):
        case ["data", "benchmark"]:
            return _benchmark(configuration)
        case ["data", "corpus"]:
            return _corpus(configuration)
        case ["data", "tasks"]:
            return _tasks(configuration)
        case ["data", "chunks", llm]:
            return _chunks(configuration, llm)
        case ["data", "episodes", "train", partition]:
            return _training_episodes(configuration, partition)
        case ["data", "episodes", draw, split] if draw == draw_of(draw):
            return _evaluation_episodes(configuration, draw, split)
        case ["data", "teacher", llm, "pretrain", beta] if llm in configuration["llms"]:
            wanted = pretraining_teacher(configuration, llm, parse_settings(beta)["beta"])
            return {**_frozen(configuration, llm), "teacher": wanted}
        case ["data", "teacher", llm, "finetune", partition] if llm in configuration["llms"]:
            wanted = finetuning_teacher(configuration, llm, partition)
            return {**_frozen(configuration, llm), "teacher": wanted}
        case ["local-models"]:
            return {**configuration["local_models"], **_tasks(configuration)}
        case ["runs", llm, method, variant, "pretrain"]:
            return _training(configuration, llm, method, variant, None)
        case ["runs", llm, method, variant, partition, "finetune"]:
            return _training(configuration, llm, method, variant, partition)
        case ["runs", llm, method, variant, partition, condition, "predict"]:
            return _prediction(configuration, llm, method, variant, partition, condition)
        case ["efficiency", llm] if llm in configuration["llms"]:
            return _efficiency(configuration, llm)
        case ["attention", llm] if llm in configuration["llms"]:
            return _attention(configuration, llm)
        case ["table1"]:
            return table1_specification(configuration, only(configuration["protocol"], _READING))
        case ["table5"]:
            return table5_specification(configuration)
        case ["report"]:
            return report_specification(configuration)
        case [study] if study in configuration["studies"]:
            return study_specification(configuration, study)
    raise UserError(f"there is no job for {path}.spec.json")


def specification_json(configuration: Configuration, path: str) -> str:
    """Return the specification as one line of JSON with sorted keys."""
    spec = specification(configuration, path)
    content = spec.model_dump(mode="json") if isinstance(spec, Settings) else spec
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def test_tasks(configuration: Configuration, partition: str) -> list[str]:
    """Return the meta-test tasks of a partition, or of all, in the order of the task list."""
    needs = configuration.needs
    chosen = needs.values() if partition == UNTRAINED else [needs[partition]]
    return _in_order(configuration, (roles["test"] for roles in chosen))


def _in_order(configuration: Configuration, lists: Iterable[Iterable[str]]) -> list[str]:
    wanted = {name for names in lists for name in names}
    return [name for name in configuration.tasks if name in wanted]


def _benchmark(configuration: Configuration) -> dict[str, Any]:
    benchmark = configuration["benchmark"]
    source = benchmark["tasks"]
    if source["source"] == "pocket":
        return {**configuration["pocket"], **_pool(benchmark)}
    return {**only(source, ("repository", "revision")), **_tasks(configuration)}


def _corpus(configuration: Configuration) -> dict[str, Any]:
    return only(configuration["benchmark"]["corpus"], ("repository", "revision", "files"))


def _tasks(configuration: Configuration) -> dict[str, Any]:
    needs = configuration.needs.values()
    return {
        "train_tasks": _in_order(configuration, (roles["train"] for roles in needs)),
        "test_tasks": _in_order(configuration, (roles["test"] for roles in needs)),
        "seeds": configuration["benchmark"]["seeds"],
        **_pool(configuration["benchmark"]),
    }


def _pool(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    return {"pool": benchmark["pool"]} if benchmark.get("pool") else {}


def _chunks(configuration: Configuration, llm: str) -> dict[str, Any]:
    corpus = configuration["benchmark"]["corpus"]
    source = _llm(configuration, llm)
    spec = {
        "llm": only(source, ("path", "revision", "local_files_only")),
        "window": corpus["window"],
        "documents": corpus.get("documents"),
        "pretraining_chunks": configuration["protocol"]["pretraining_chunks"],
    }
    return {**spec, **only(corpus, ("column",))}


def _training_episodes(configuration: Configuration, partition: str) -> dict[str, Any]:
    benchmark = configuration["benchmark"]
    stages = [
        method_settings(configuration, llm, method, DEFAULT).get("finetune")
        for llm in configuration["llms"]
        for method in configuration["methods"]
    ]
    return {
        "tasks": list(configuration.needs[partition]["train"]),
        "shots": benchmark["shots"],
        "queries_per_episode": configuration["training"]["finetune"]["queries_per_episode"],
        "episodes": max(stage["steps"] * stage["batch_size"] for stage in stages if stage),
        "seed": benchmark["seed"],
        "task_sampling": configuration["protocol"]["task_sampling"],
    }


def _evaluation_episodes(configuration: Configuration, draw: str, split: str) -> dict[str, Any]:
    benchmark = configuration["benchmark"]
    spec = {
        "tasks": test_tasks(configuration, UNTRAINED),
        "shots": benchmark["shots"],
        "seeds": benchmark["seeds"],
        "demonstrations_at_test": configuration["protocol"]["demonstrations_at_test"],
        "rows": benchmark.get("test_rows") if split == "test" else None,
        "seed": benchmark["seed"],
        **parse_settings(draw),
    }
    if "selection" in spec:
        spec.update(_pool(benchmark))
    if spec.get("selection") == "dense":
        spec["dense"] = benchmark["dense_retrieval"]
    return spec


def _training(
    configuration: Configuration, llm: str, method: str, variant: str, partition: str | None
) -> dict[str, Any]:
    name = "finetune" if partition else "pretrain"
    settings = method_settings(configuration, llm, method, variant)
    if name not in settings:
        raise UserError(f"methods.{method} has no stage {name}")
    stage = settings[name]
    training = {
        **only(stage, (key for key in stage if key not in _NOT_OF_THE_JOB)),
        "stage": name,
        "seed": configuration["training"]["seed"],
        "partition": partition,
        "variant": variant,
    }
    keys = [*_LEARNING]
    if stopping := stage["early_stopping"]:
        whose = partition or stopping["partition"]
        # The dev score needs each task's type to know its metric.
        types = {task: configuration.tasks[task].type for task in test_tasks(configuration, whose)}
        wanted = ("every", "patience", "rows_per_task", "seed")
        training["early_stopping"] = {**only(stopping, wanted), "tasks": types}
        keys += [*_SCORING, "metrics"]
    if partition:
        keys.append("distill_in_finetuning")
    return {**_run(configuration, llm, method, settings, keys), "training": training}


def _prediction(
    configuration: Configuration,
    llm: str,
    method: str,
    variant: str,
    partition: str,
    condition: str,
) -> dict[str, Any]:
    settings = method_settings(configuration, llm, method, variant)
    how = parse_settings(condition)
    predict = {
        "tasks": test_tasks(configuration, partition),
        "partition": partition,
        "variant": variant,
        "condition": condition,
        **only(how, ("perturbation", "group")),
    }
    if "perturbation" in how:
        predict["seed"] = configuration["benchmark"]["seed"]
    spec = {**_run(configuration, llm, method, settings, _SCORING), "predict": predict}
    if "template" in how:
        spec["protocol"]["separators"] = configuration["templates"][how["template"]]
    if "longest_context" in how:
        longest = how["longest_context"]
        spec["protocol"]["longest_context"] = {"llm": longest, "distiller": longest}
    return spec


def _efficiency(configuration: Configuration, llm: str) -> dict[str, Any]:
    needs = {
        partition: test_tasks(configuration, partition)[0]
        for partition in configuration["efficiency"]["partitions"]
        if partition in configuration.needs
    }
    spec = _run(configuration, llm, "mend", configuration["methods"]["mend"], _SCORING)
    spec["llm"]["paper_llm"] = configuration["llms"][llm].get("paper_llm")
    spec["efficiency"] = {
        "tasks": needs,
        "seed": configuration["benchmark"]["seeds"][0],
        "prompt_length": configuration["methods"]["prompt-tuning"]["length"],
    }
    return spec


def _attention(configuration: Configuration, llm: str) -> dict[str, Any]:
    wanted = configuration["attention"]
    spec = _run(configuration, llm, "mend", configuration["methods"]["mend"], _SCORING)
    spec["attention"] = {
        "partition": wanted["partition"],
        "tasks": test_tasks(configuration, wanted["partition"]),
        "seed": configuration["benchmark"]["seeds"][0],
        **only(wanted, ("copy_length",)),
    }
    return spec


def _run(
    configuration: Configuration,
    llm: str,
    method: str,
    settings: Mapping[str, Any],
    protocol_keys: Sequence[str],
) -> dict[str, Any]:
    """Return the parts llm, method and protocol of a run."""
    source = _llm(configuration, llm)
    distiller = None
    keys = [*_READING, *protocol_keys]
    if uses_distiller(method):
        distiller = {"revision": None, **configuration["llms"][llm]["distiller"]}
        distiller["local_files_only"] = source["local_files_only"]
        keys += _DISTILLING
    return {
        "llm": source,
        "method": {"name": method, "length": settings.get("length"), "distiller": distiller},
        "protocol": only(configuration["protocol"], keys),
    }


def _frozen(configuration: Configuration, llm: str) -> dict[str, Any]:
    """Return the parts llm and protocol of a job in which the LLM reads demonstrations alone."""
    protocol = only(configuration["protocol"], _READING)
    return {"llm": _llm(configuration, llm), "protocol": protocol}


def _llm(configuration: Configuration, name: str) -> dict[str, Any]:
    defaults = {"revision": None, "dtype": "float32", "local_files_only": False}
    keys = ("path", "revision", "dtype", "int8", "local_files_only", "query_in", "sharded")
    return {"name": name, **defaults, **only(configuration["llms"][name], keys)}
