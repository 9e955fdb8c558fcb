"""Checks of a configuration beyond its types: that its parts fit each other and the models."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mend.configuration.choices import (
    ENCODER_DECODERS,
    OF_ANSWERS,
    POCKET_SEEDS,
    POCKET_TRAIN_ROWS,
    STAGES,
)
from mend.configuration.files import read_small_text
from mend.configuration.methods import method_class
from mend.configuration.own_tasks import own_task_problems
from mend.configuration.paths import DEFAULT, parse_settings
from mend.configuration.positions import max_positions
from mend.configuration.results_folder import results_problem
from mend.configuration.room import check_room
from mend.configuration.runs import (
    attention_runs,
    default_condition,
    has_setting,
    method_setup,
    study_points,
    training_shots,
)
from mend.configuration.schema import ConfigurationValues, Settings, StageSettings, given
from mend.configuration.settings import hub_name_problem
from mend.configuration.study_checks import (
    VectorsRead,
    most_read,
    name_problems,
    run_problem,
    stage_problem,
    study_problems,
)
from mend.configuration.words import closest, listed
from mend.errors import UserError

CORPUS_ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz", ".txt", ".txt.gz")
LOCAL_MODELS = ("gpt2", "gpt2-small")
"""What job local-models makes, below RESULTS/local-models."""


_DECODERS_ONLY = {
    "key-values": "keys and values",
    "low-rank": "low-rank weights",
    "additions": "additions to a state",
}
"""The kinds of contexts that encoder-decoders do not read."""

_BLOCKS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""The keys of a config.json that say how many blocks a model has."""


def check_values(values: ConfigurationValues) -> None:
    """Raise UserError, listing the keys, for values that do not fit other ones."""
    problems = [f"results: {problem}" for problem in results_problem(values)]
    problems += [
        *_tasks(values),
        *own_task_problems(values),
        *_pool(values),
        *_corpus(values),
        *_dense(values),
    ]
    methods = [*_methods(values), *_llm_settings(values)]
    problems += [*methods, *_stopping(values), *name_problems(values)]
    unknown = {study: list(_unknown_names(values, study)) for study in values.studies}
    for found in unknown.values():
        problems += found
    if not methods:
        problems += _stages(values)
    studies = [study for study, found in unknown.items() if not (found or methods)]
    of_studies = list(study_problems(values, studies))
    problems += of_studies
    parts = list(_parts(values))
    problems += parts
    usable = [] if of_studies or methods else studies
    runs = [point[:4] for study in usable for point in study_points(values, study)]
    if "table2" in usable and not parts:  # whose runs figures 5 and 8 look at
        for run in attention_runs(values):
            if problem := run_problem(values, *run[:3], parse_settings(run[3])):
                problems.append(f"attention: {problem}")
            else:
                runs.append(run)
    if values.efficiency and not (methods or parts):
        measured = itertools.product(values.efficiency.llms, values.efficiency.methods)
        runs += [(*each, DEFAULT, default_condition(values)) for each in measured]
    read = most_read(values, runs)
    used = [name for study in studies for name in values.studies[study].llms]
    for part in (values.efficiency, values.attention):
        used += part.llms if part and not parts else []
    for name in dict.fromkeys(used):
        problems += _llm(values, name, read)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def _tasks(values: ConfigurationValues) -> Iterator[str]:
    tasks, seeds = values.benchmark.tasks, values.benchmark.seeds
    if tasks.source == "pocket":
        if values.pocket is None:
            yield "pocket: missing, and benchmark.tasks.source: pocket needs it"
        if unknown := sorted(set(seeds) - set(POCKET_SEEDS)):
            yield (
                f"benchmark.seeds: the pocket tasks have the seeds {listed(POCKET_SEEDS)}, "
                f"not {listed(unknown)}"
            )
        rows = training_shots(values) + values.training.finetune.queries_per_episode
        if rows > POCKET_TRAIN_ROWS:
            yield (
                f"training.finetune.queries_per_episode: an episode would have {rows} rows, and "
                f"some pocket tasks have {POCKET_TRAIN_ROWS}"
            )
    elif tasks.source == "hub":
        yield from _required(tasks, "benchmark.tasks", "repository", "revision")
    elif tasks.source == "folder":
        yield from _required(tasks, "benchmark.tasks", "folder")
        if tasks.folder and not os.path.isdir(tasks.folder):
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
    yield from _folder("benchmark.pool_files.folder", files.folder)


def _corpus(values: ConfigurationValues) -> Iterator[str]:
    corpus, tasks = values.benchmark.corpus, values.benchmark.tasks
    yield from _folder("benchmark.corpus.folder", corpus.folder)
    for name in corpus.files or () if corpus.source in ("folder", "hub") else ():
        if not name.endswith(("*", *CORPUS_ENDINGS)):
            yield f"benchmark.corpus.files: {name} ends in none of {', '.join(CORPUS_ENDINGS)}"
    if corpus.source == "hub":
        yield from _required(corpus, "benchmark.corpus", "repository", "revision", "files")
    elif corpus.source == "folder":
        yield from _required(corpus, "benchmark.corpus", "files")
        if tasks.source != "folder":
            yield from _required(corpus, "benchmark.corpus", "folder")
    elif corpus.source == "meta-train":
        if corpus.documents:
            yield (
                "benchmark.corpus.documents: leave it out with source: meta-train, whose tasks "
                "come one after the other"
            )
        if corpus.column != "text":
            yield f"benchmark.corpus.column: {corpus.column} is for files; leave it out"
    elif tasks.source == "pocket":
        if corpus.column != "text":
            yield f"benchmark.corpus.column: the pocket corpus has text, and no {corpus.column}"
    else:
        yield (
            "benchmark.corpus.source: the pocket corpus comes with the pocket tasks only "
            "(benchmark.tasks.source: pocket)"
        )


def _dense(values: ConfigurationValues) -> Iterator[str]:
    if dense := values.benchmark.dense_retrieval:
        try:
            _config(values, "benchmark.dense_retrieval.model", dense.model)
        except UserError as error:
            yield str(error)


def _folder(key: str, path: str | None) -> Iterator[str]:
    if path and not os.path.isdir(path):
        yield f"{key}: there is no folder {path}"


def _required(part: Settings, place: str, *keys: str) -> Iterator[str]:
    for key in keys:
        if getattr(part, key) is None:
            yield f"{place}.{key}: missing, and source {part.source} needs it"


def _unknown_names(values: ConfigurationValues, study: str) -> Iterator[str]:
    """Yield which LLMs, methods and partitions of a study there are not."""
    defined = {
        "llms": list(values.llms),
        "methods": values.methods.names(),
        "partitions": values.benchmark.all_partitions,
    }
    for kind, names in defined.items():
        for name in getattr(values.studies[study], kind) or ():
            if name not in names:
                where = "benchmark.partitions" if kind == "partitions" else kind
                yield (
                    f"studies.{study}.{kind}: {name} is not in {where}"
                    f"{closest(name, names)}; there are {listed(names)}"
                )


def _methods(values: ConfigurationValues) -> Iterator[str]:
    """Check that methods that train anything have a stage with a loss, and no others one."""
    for name in values.methods.names():
        method = values.methods[name]
        stages = [stage for stage in STAGES if getattr(method, stage)]
        if method.is_trained() and not stages:
            yield (
                f"methods.{name}: it has no stage, so that it would be scored as it is before any "
                "training; add finetune: {losses: {pred: 1.0}}, or pretrain"
            )
        if not method.is_trained():
            for stage in stages:
                yield f"methods.{name}.{stage}: this method trains nothing; leave it out"
        for stage in stages:
            losses = getattr(method, stage).losses
            if not any(losses.model_dump().values()):
                yield f"methods.{name}.{stage}.losses: all weights are 0"
        for loss in OF_ANSWERS:
            if method.pretrain and getattr(method.pretrain.losses, loss):
                key = f"methods.{name}.pretrain.losses.{loss}"
                yield f"{key}: pretraining text has no answers; use clm"


def _llm_settings(values: ConfigurationValues) -> Iterator[str]:
    """Check that what an LLM changes of methods is of methods, and of stages that they have."""
    names = values.methods.names()
    for llm, content in values.llms.items():
        for name, training in content.methods.items():
            key = f"llms.{llm}.methods.{name}"
            if name not in names:
                yield f"{key}: it is not in methods{closest(name, names)}"
                continue
            for stage in STAGES:
                if getattr(training, stage) and not getattr(values.methods[name], stage):
                    yield f"{key}.{stage}: methods.{name} has no such stage; leave this out"


def _stages(values: ConfigurationValues) -> Iterator[str]:
    """Check what methods are trained with, together with `training` and what LLMs change of it."""
    for name in values.methods.names():
        for key in given(values.methods[name].select):
            if not any(has_setting(values, llm, name, key) for llm in values.llms):
                what = "loss" if "losses" in key else "setting"
                yield (
                    f"methods.{name}.select.{key}: {name} is not trained with this {what}: there "
                    "is nothing to choose; leave it out"
                )
        for llm in values.llms:
            setup = method_setup(values, llm, name, DEFAULT)
            if problem := stage_problem(values, setup):
                yield f"llms.{llm}, methods.{name}: {problem}"


def stopping_settings(values: ConfigurationValues) -> Iterator[tuple[str, str, Any]]:
    """Yield each early stopping of the configuration: its key, its stage, and its settings."""
    places: dict[str, Any] = {"training": values.training}
    for llm, content in values.llms.items():
        places[f"llms.{llm}.training"] = content.training
        for name, training in content.methods.items():
            places[f"llms.{llm}.methods.{name}"] = training
    for key, training in places.items():
        for stage in STAGES if training else ():
            part: StageSettings | None = getattr(training, stage)
            if part and part.early_stopping:
                yield f"{key}.{stage}.early_stopping", stage, part.early_stopping


def _stopping(values: ConfigurationValues) -> Iterator[str]:
    """Check whose dev rows stop a training."""
    seeds, partitions = values.benchmark.seeds, values.benchmark.all_partitions
    for key, stage, stopping in stopping_settings(values):
        if stopping.seed not in seeds:
            yield f"{key}.seed: {stopping.seed} is not in benchmark.seeds, {listed(seeds)}"
        if stage == "finetune" and stopping.partition:
            yield (
                f"{key}.partition: finetuning stops by the dev rows of its own partition; leave "
                "this key out"
            )
        if stage == "pretrain" and stopping.partition not in partitions:
            yield (
                f"{key}.partition: {stopping.partition} is not among the partitions that can run, "
                f"{listed(partitions)}"
            )


def _parts(values: ConfigurationValues) -> Iterator[str]:
    """Check that figures 3, 5 and 8 have the LLMs, methods and partitions that they are of."""
    methods, partitions = values.methods.names(), values.benchmark.all_partitions
    for part, content, needed, wanted in (
        ("efficiency", values.efficiency, ("mend", "prompt-tuning"), "partitions"),
        ("attention", values.attention, ("mend",), "partition"),
    ):
        if not content:
            continue
        for name in content.llms:
            if name not in values.llms:
                yield f"{part}.llms: {name} is not in llms{closest(name, values.llms)}"
        for name in (*needed, *getattr(content, "methods", ())):
            if name not in methods:
                yield f"{part}: it measures {name}, which is not in methods; add it to them"
        for number, claim in enumerate(getattr(content, "claims", ())):
            if claim.higher == claim.lower:
                yield f"{part}.claims[{number}]: it compares {claim.lower} with itself"
        found = getattr(content, wanted)
        for name in [found] if isinstance(found, str) else found:
            if name not in partitions:
                known = listed(partitions)
                yield f"{part}.{wanted}: {name} is not in benchmark.partitions, {known}"


def _llm(
    values: ConfigurationValues, name: str, read: dict[tuple[str, str], VectorsRead]
) -> Iterator[str]:
    """Check that an LLM and its distiller are there and have room for what they will read.

    read: as `most_read` returns it.
    """
    llm = values.llms[name]
    if llm.int8 and llm.sharded:
        yield f"llms.{name}.sharded: not together with int8; choose one"
    key, small = f"llms.{name}.path", f"llms.{name}.distiller.path"
    try:
        config, small_config = (
            _config(values, key, llm.path, llm.local_files_only),
            _config(values, small, llm.distiller.path, llm.local_files_only),
        )
        positions = _positions(key, llm.path, config)
        distiller = _positions(small, llm.distiller.path, small_config)
    except UserError as error:
        yield str(error)
        return
    for setting, chosen, of_model in (
        ("query_in", llm.query_in, config),
        ("distiller.part", llm.distiller.part, small_config),
    ):
        if chosen and "model_type" in (of_model or ()) and not of_model.get("is_encoder_decoder"):
            yield (
                f"llms.{name}.{setting}: {chosen} is for encoder-decoder models, and this one is "
                "none; leave it out"
            )
    if (config or {}).get("is_encoder_decoder"):
        for method in sorted({m for of, m in read if of == name}):
            if (kind := method_class(method).kind) in _DECODERS_ONLY:
                yield (
                    f"llms.{name}: {method} makes {_DECODERS_ONLY[kind]}, and this LLM's encoder "
                    "reads contexts; leave the method out for it"
                )
    for method in sorted({method for of, method in read if of == name}):
        layer = getattr(values.methods[method], "layer", None)
        if problem := layer is not None and _layers([layer], config or {}):
            yield f"llms.{name}: methods.{method}.layer: {problem}"
    if problem := _layers(llm.distiller.layers, small_config or {}):
        yield f"llms.{name}.distiller.layers: {problem}"
    yield from _special_tokens(values, name)
    yield from _tokenizers(name, Path(llm.path), Path(llm.distiller.path))
    if positions is None:
        # No limit, or one that is on the hub; a distiller may have one all the same.
        positions = 10**9
    window = values.benchmark.corpus.window
    if window > positions:
        yield (
            f"benchmark.corpus.window: chunks of {window} tokens exceed the {positions} positions "
            f"of {name}"
        )
    for method in values.methods.names():
        most = read.get((name, method), VectorsRead())
        length = max(values.methods[method].context_length or 0, most.length) or None
        distils = method_class(method).distils
        try:
            check_room(
                values.protocol.longest_context,
                positions,
                length=length,
                distiller_positions=distiller if distils else None,
                groups=most.groups,
                text=most.text,
                run=f"llms.{name}, methods.{method}",
            )
        except UserError as error:
            yield str(error)


def _layers(layers: list[int] | None, config: Mapping[str, Any]) -> str | None:
    """Return why a model has not these blocks, as far as its config.json says how many it has."""
    count = next((config[key] for key in _BLOCKS if isinstance(config.get(key), int)), None)
    if layers and count is not None and layers[-1] >= count:
        return f"the model has {count} blocks, 0 to {count - 1}, and none of number {layers[-1]}"
    return None


def _special_tokens(values: ConfigurationValues, name: str) -> Iterator[str]:
    """Check that an LLM's tokenizer has the special tokens that are asked for."""
    llm = values.llms[name]
    wanted = {}
    if llm.prefix == "bos":
        wanted["bos_token"] = (
            f"llms.{name}.prefix: bos, but",
            "write none, auto, or the text that is to stand before every context",
        )
    pretrained = any(values.methods[method].pretrain for method in values.methods.names())
    if pretrained and values.protocol.pretraining_chunks == "fixed-windows":
        wanted["eos_token"] = (
            "protocol.pretraining_chunks: fixed-windows, but",
            "write per-document, which needs none",
        )
    tokenizer = Path(llm.path) / "tokenizer_config.json"
    if not wanted or not os.path.isfile(tokenizer):
        return  # a tokenizer of the hub says it in the job
    try:
        settings = json.loads(read_small_text(tokenizer))
    except (UserError, ValueError, RecursionError):
        return  # told as a broken tokenizer where it is loaded
    for token, (before, after) in wanted.items():
        if not (isinstance(settings, dict) and settings.get(token)):
            yield f"{before} {tokenizer} names no {token}; {after}"


def _tokenizers(name: str, llm: Path, distiller: Path) -> Iterator[str]:
    """Check that an LLM and its distiller, both in folders, have one vocabulary."""
    try:
        texts = [read_small_text(folder / "tokenizer.json") for folder in (llm, distiller)]
        if len(set(texts)) < 2:
            return
        words = [json.loads(text)["model"]["vocab"] for text in texts]
    except (UserError, ValueError, LookupError, TypeError, RecursionError):
        return  # one has none, or a broken one, which is told where it is loaded
    if words[0] != words[1]:
        yield (
            f"llms.{name}.distiller.path: {distiller} has another vocabulary than {llm}; choose a "
            "distiller of the same family"
        )


def _config(
    values: ConfigurationValues, key: str, path: str, local: bool = False
) -> dict[str, Any] | None:
    """Return a model's config.json; None if the model is on the hub, or is yet to be made of GGUF.

    local: what is on the hub must have been downloaded before.
    Raises UserError, naming the key, if there can be no such model.
    """
    made = f"{values.results.rstrip('/')}/local-models/"
    if path.startswith(made):
        if values.local_models is None:
            raise UserError(f"local_models: missing, and {key} names a model that it makes")
        if path.removeprefix(made) not in LOCAL_MODELS:
            raise UserError(f"{key}: {made} has {' and '.join(LOCAL_MODELS)}, not {path}")
        return {"model_type": "gpt2", "n_positions": values.local_models.positions}
    folder = Path(path)
    converted = f"{values.results.rstrip('/')}/gguf-models/"
    if path.startswith(converted):
        if path.removeprefix(converted) not in values.gguf_models:
            made = listed(values.gguf_models) if values.gguf_models else "none"
            raise UserError(f"{key}: {path} is made of none of gguf_models, which has {made}")
        if not os.path.isdir(folder):
            return None
    if not os.path.isdir(folder):
        # Hub names are `name` or `owner/name`; anything else is meant as a folder.
        if os.path.lexists(folder) or hub_name_problem(path):
            raise UserError(f"{key}: there is no folder {path}")
        if local and not os.path.isdir(_hub_cache() / f"models--{path.replace('/', '--')}"):
            raise UserError(
                f"{key}: there is no folder {path}, and local_files_only keeps from looking for it "
                "on the Hugging Face hub; it was not downloaded before"
            )
        return None
    try:
        config = json.loads(read_small_text(folder / "config.json"))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}: {folder}/config.json cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{key}: {folder}/config.json cannot be read: it holds no JSON object")
    return config


def _hub_cache() -> Path:
    """Return where the hub's client keeps what it downloaded, as that client finds it."""
    caches = os.getenv("XDG_CACHE_HOME", "~/.cache")
    home = os.getenv("HF_HOME", f"{caches}/huggingface")
    return Path(os.getenv("HF_HUB_CACHE", f"{home}/hub")).expanduser()


def _positions(key: str, path: str, config: dict[str, Any] | None) -> int | None:
    """Return a language model's positions; None if they have no limit or it is on the hub."""
    if config is None:
        return None
    try:
        positions = max_positions(config)
    except ValueError as error:
        raise UserError(f"{key}: {path}/config.json cannot be read: {error}") from None
    if problem := _no_language_model(config):
        raise UserError(f"{key}: {path} holds a {config.get('model_type')}, {problem}")
    return positions


def _no_language_model(config: dict[str, Any]) -> str | None:
    """Return why a model cannot predict text here, as far as its config.json says so."""
    if config.get("is_encoder_decoder") and config.get("model_type") not in ENCODER_DECODERS:
        return f"and of encoder-decoder models only {listed(ENCODER_DECODERS)} are supported"
    heads = config.get("architectures")
    heads = heads if isinstance(heads, list) else ()
    if not config.get("is_decoder") and any(str(name).endswith("ForMaskedLM") for name in heads):
        return "which reads in both directions and predicts no next token; choose a causal model"
    return None
