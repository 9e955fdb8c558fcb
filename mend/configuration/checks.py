"""Checks of a configuration beyond its types: that its parts fit each other and the models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mend.configuration.choices import ENCODER_DECODERS, POCKET_SEEDS, STAGES
from mend.configuration.messages import closest
from mend.configuration.methods import method_class
from mend.configuration.positions import max_positions
from mend.configuration.room import check_room
from mend.configuration.runs import has_setting
from mend.configuration.schema import ConfigurationValues, Settings, given
from mend.configuration.study_checks import longest_lengths, most_groups, study_problems
from mend.errors import UserError


def check_values(values: ConfigurationValues) -> None:
    """Raise UserError, listing the keys, for values that do not fit other ones."""
    problems = [*_tasks(values), *_pool(values), *_corpus(values), *_stages(values)]
    unknown = {study: list(_unknown_names(values, study)) for study in values.studies}
    for found in unknown.values():
        problems += found
    studies = [study for study, found in unknown.items() if not found]
    of_studies = list(study_problems(values, studies))
    lengths = {} if of_studies else longest_lengths(values, studies)
    groups = {} if of_studies else most_groups(values, studies)
    problems += of_studies
    for name in dict.fromkeys(name for study in studies for name in values.studies[study].llms):
        problems += _llm(values, name, lengths, groups)
    if problems:
        raise UserError("\n".join(problems))


def _tasks(values: ConfigurationValues) -> Iterator[str]:
    tasks, seeds = values.benchmark.tasks, values.benchmark.seeds
    if tasks.source == "pocket":
        if values.pocket is None:
            yield "pocket: missing, and benchmark.tasks.source: pocket needs it"
        if unknown := sorted(set(seeds) - set(POCKET_SEEDS)):
            yield (
                f"benchmark.seeds: the pocket tasks have the seeds {_listed(POCKET_SEEDS)}, "
                f"not {_listed(unknown)}"
            )
    elif tasks.source == "hub":
        yield from _required(tasks, "benchmark.tasks", "repository", "revision")
    else:
        yield from _required(tasks, "benchmark.tasks", "folder")
        if tasks.folder and not Path(tasks.folder).is_dir():
            yield (
                f"benchmark.tasks.folder: there is no folder {tasks.folder}; name the one that "
                "holds data/TASK/TASK_16_SEED_SPLIT.jsonl in the configuration file, or with "
                "--config 'benchmark={tasks: {folder: PATH}}'"
            )


def _pool(values: ConfigurationValues) -> Iterator[str]:
    benchmark, files = values.benchmark, values.benchmark.pool_files
    if files is None:
        return
    if benchmark.tasks.source == "pocket":
        yield "benchmark.pool_files: the pocket tasks make their own pool; leave this out"
    if benchmark.pool is None:
        yield "benchmark.pool: missing, and benchmark.pool_files needs it: rows of a task and seed"
    needed = ("repository", "revision") if files.source == "hub" else ("folder",)
    yield from _required(files, "benchmark.pool_files", *needed)
    for name in files.files:
        if not name.endswith((".parquet", ".jsonl")):
            yield f"benchmark.pool_files.files: {name} is neither .parquet nor .jsonl"


def _corpus(values: ConfigurationValues) -> Iterator[str]:
    corpus, tasks = values.benchmark.corpus, values.benchmark.tasks
    if corpus.source == "hub":
        yield from _required(corpus, "benchmark.corpus", "repository", "revision", "files")
    elif corpus.source == "folder":
        yield from _required(corpus, "benchmark.corpus", "files")
        if tasks.source != "folder":
            yield from _required(corpus, "benchmark.corpus", "folder")
    elif tasks.source != "pocket":
        yield (
            "benchmark.corpus.source: the pocket corpus comes with the pocket tasks only "
            "(benchmark.tasks.source: pocket)"
        )


def _required(part: Settings, place: str, *keys: str) -> Iterator[str]:
    for key in keys:
        if getattr(part, key) is None:
            yield f"{place}.{key}: missing, and source {part.source} needs it"


def _unknown_names(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield which LLMs, methods and partitions of a study there are not."""
    defined = {
        "llms": list(values.llms),
        "methods": values.methods.names(),
        "partitions": values.benchmark.partitions,
    }
    for kind, names in defined.items():
        for name in getattr(values.studies[study], kind) or ():
            if name not in names:
                where = "benchmark.partitions" if kind == "partitions" else kind
                yield (
                    f"studies.{study}.{kind}: {name} is not in {where}"
                    f"{closest(name, names)}; there are {_listed(names)}"
                )


def _stages(values: ConfigurationValues) -> Iterator[str]:
    """Check the training stages of the methods."""
    for name in values.methods.names():
        method = values.methods[name]
        for stage in STAGES:
            losses = getattr(getattr(method, stage), "losses", None)
            if losses and not any((losses.distill, losses.clm, losses.pred)):
                yield f"methods.{name}.{stage}.losses: all weights are 0"
        for key in given(method.select):
            if not any(has_setting(values, llm, name, key) for llm in values.llms):
                what = "loss" if "losses" in key else "setting"
                yield (
                    f"methods.{name}.select.{key}: {name} is not trained with this {what}: there "
                    "is nothing to choose; leave it out"
                )
        if method.pretrain and method.pretrain.losses.pred:
            yield f"methods.{name}.pretrain.losses.pred: pretraining text has no answers; use clm"
    seeds = values.benchmark.seeds
    for stage in STAGES:
        stopping = getattr(values.training, stage).early_stopping
        if stopping and stopping.seed not in seeds:
            yield (
                f"training.{stage}.early_stopping.seed: {stopping.seed} is not in "
                f"benchmark.seeds, {_listed(seeds)}"
            )
    pretraining, finetuning = (
        values.training.pretrain.early_stopping,
        values.training.finetune.early_stopping,
    )
    if finetuning and finetuning.partition:
        yield (
            "training.finetune.early_stopping.partition: finetuning stops by the dev rows of its "
            "own partition; leave this key out"
        )
    partitions = values.benchmark.partitions
    if pretraining and pretraining.partition not in partitions:
        yield (
            f"training.pretrain.early_stopping.partition: {pretraining.partition} is not among the "
            f"partitions that can run, {_listed(partitions)}"
        )


def _llm(
    values: ConfigurationValues,
    name: str,
    lengths: dict[str, int],
    groups: dict[tuple[str, str], tuple[int, int]],
) -> Iterator[str]:
    """Check that an LLM and its distiller are there and have room for what they will read."""
    llm = values.llms[name]
    if llm.int8 and llm.sharded:
        yield f"llms.{name}.sharded: not together with int8; choose one"
    try:
        positions = _positions(values, f"llms.{name}.path", llm.path)
        distiller = _positions(values, f"llms.{name}.distiller.path", llm.distiller.path)
    except UserError as error:
        yield str(error)
        return
    yield from _bos(name, llm.prefix, Path(llm.path) / "tokenizer_config.json")
    if positions is None:
        positions = (
            10**9
        )  # no limit, or one that is on the hub; a distiller may have one all the same
    window = values.benchmark.corpus.window
    if window > positions:
        yield (
            f"benchmark.corpus.window: chunks of {window} tokens exceed the {positions} positions "
            f"of {name}"
        )
    for method in values.methods.names():
        length = max(values.methods[method].vectors or 0, lengths.get(method, 0)) or None
        distils = method_class(method).distils
        try:
            check_room(
                values.protocol.longest_context,
                positions,
                length=length,
                distiller_positions=distiller if distils else None,
                groups=groups.get((name, method)),
                run=f"llms.{name}, methods.{method}",
            )
        except UserError as error:
            yield str(error)


def _bos(name: str, prefix: str, tokenizer: Path) -> Iterator[str]:
    """Check that a tokenizer whose beginning-of-sequence token is asked for has one."""
    if prefix != "bos" or not tokenizer.is_file():
        return  # a tokenizer of the hub says it in the job
    try:
        settings = json.loads(tokenizer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # told as a broken tokenizer where it is loaded
    if not (isinstance(settings, dict) and settings.get("bos_token")):
        yield (
            f"llms.{name}.prefix: bos, but {tokenizer} names no bos_token; write none, auto, or "
            "the text that is to stand before every context"
        )


def _positions(values: ConfigurationValues, key: str, path: str) -> int | None:
    """Return a model's positions; None if they have no limit or the model is on the hub."""
    if path.startswith(f"{values.results.rstrip('/')}/local-models/"):
        if values.local_models is None:
            raise UserError(f"local_models: missing, and {key} names a model that it makes")
        return values.local_models.positions
    folder = Path(path)
    if not folder.is_dir():
        # Hub names are `name` or `owner/name`; anything else is meant as a folder.
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise UserError(f"{key}: there is no folder {path}")
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no JSON object")
        positions = max_positions(config)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {folder}/config.json cannot be read: {error}") from None
    if problem := _no_language_model(config):
        raise UserError(f"{key}: {folder} holds a {config.get('model_type')}, {problem}")
    return positions


def _no_language_model(config: dict[str, Any]) -> str | None:
    """Return why a model cannot predict text here, as far as its config.json says so."""
    if config.get("is_encoder_decoder") and config.get("model_type") not in ENCODER_DECODERS:
        return f"and of encoder-decoder models only {_listed(ENCODER_DECODERS)} are supported"
    heads = config.get("architectures") or ()
    if not config.get("is_decoder") and any(str(name).endswith("ForMaskedLM") for name in heads):
        return "which reads in both directions and predicts no next token; choose a causal model"
    return None


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))
