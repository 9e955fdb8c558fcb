"""Checks of a configuration beyond its schema: that its parts fit each other and the models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mend.configuration.runs import uses_distiller
from mend.configuration.schema import closest
from mend.configuration.study_checks import check_studies, longest_lengths
from mend.data.template import check_room
from mend.errors import UserError

METHODS = Path(__file__).parents[1] / "methods"


def check_values(values: Mapping[str, Any]) -> None:
    """Raise UserError, naming the key, for a value that does not fit another one."""
    _check_tasks(values)
    _check_corpus(values["benchmark"])
    _check_names(values)
    _check_stages(values)
    check_studies(values)
    lengths = longest_lengths(values)
    studies = values["studies"].values()
    for name in dict.fromkeys(name for study in studies for name in study["llms"]):
        _check_llm(values, name, lengths)


def _check_tasks(values: Mapping[str, Any]) -> None:
    benchmark = values["benchmark"]
    tasks = benchmark["tasks"]
    if tasks["source"] == "pocket":
        from mend.pocket.world import SEEDS

        if "pocket" not in values:
            raise UserError("pocket: missing, and benchmark.tasks.source: pocket needs it")
        if unknown := sorted(set(benchmark["seeds"]) - set(SEEDS)):
            raise UserError(
                f"benchmark.seeds: the pocket tasks have the seeds {_listed(SEEDS)}, "
                f"not {_listed(unknown)}"
            )
    elif tasks["source"] == "hub":
        _require(tasks, "benchmark.tasks", "repository", "revision")
    else:
        _require(tasks, "benchmark.tasks", "folder")
        if not Path(tasks["folder"]).is_dir():
            raise UserError(
                f"benchmark.tasks.folder: there is no folder {tasks['folder']}; name the one that "
                "holds data/TASK/TASK_16_SEED_SPLIT.jsonl in the configuration file, or with "
                "--config 'benchmark={tasks: {folder: PATH}}'"
            )


def _check_corpus(benchmark: Mapping[str, Any]) -> None:
    corpus = benchmark["corpus"]
    if corpus["source"] == "hub":
        _require(corpus, "benchmark.corpus", "repository", "revision", "files")
    elif corpus["source"] == "folder":
        _require(corpus, "benchmark.corpus", "files")
        if benchmark["tasks"]["source"] != "folder":
            _require(corpus, "benchmark.corpus", "folder")
    elif benchmark["tasks"]["source"] != "pocket":
        raise UserError(
            "benchmark.corpus.source: the pocket corpus comes with the pocket tasks only "
            "(benchmark.tasks.source: pocket)"
        )


def _require(part: Mapping[str, Any], place: str, *keys: str) -> None:
    for key in keys:
        if key not in part:
            raise UserError(f"{place}.{key}: missing, and source {part['source']} needs it")


def _check_names(values: Mapping[str, Any]) -> None:
    """Check that what is named is defined."""
    known = sorted(file.stem.replace("_", "-") for file in METHODS.glob("*.py"))
    known = [name for name in known if name not in ("--init--", "base")]
    for name in values["methods"]:
        if name not in known:
            raise UserError(
                f"methods.{name}: no such method{closest(name, known)}; "
                f"mend/methods/ has {_listed(known)}"
            )
    for study, content in values["studies"].items():
        defined = {
            "llms": values["llms"],
            "methods": values["methods"],
            "partitions": values["benchmark"]["partitions"],
        }
        for kind, names in defined.items():
            for name in content.get(kind, ()):
                if name not in names:
                    where = "benchmark.partitions" if kind == "partitions" else kind
                    raise UserError(
                        f"studies.{study}.{kind}: {name} is not in {where}"
                        f"{closest(name, names)}; there are {_listed(names)}"
                    )


def _check_stages(values: Mapping[str, Any]) -> None:
    """Check the training stages of the methods."""
    for name, method in values["methods"].items():
        stages = [stage for stage in ("pretrain", "finetune") if stage in method]
        if stages and "length" not in method:
            raise UserError(f"methods.{name}.length: missing, and a trained method needs it (l)")
        for stage in stages:
            if not any(method[stage]["losses"].values()):
                raise UserError(f"methods.{name}.{stage}.losses: all weights are 0")
        if method.get("pretrain", {}).get("losses", {}).get("pred"):
            raise UserError(
                f"methods.{name}.pretrain.losses.pred: pretraining text has no answers; use clm"
            )
    for stage in ("pretrain", "finetune"):
        stopping = values["training"][stage]["early_stopping"]
        if stopping and stopping["seed"] not in values["benchmark"]["seeds"]:
            raise UserError(
                f"training.{stage}.early_stopping.seed: {stopping['seed']} is not in "
                f"benchmark.seeds, {_listed(values['benchmark']['seeds'])}"
            )
    if "partition" in (values["training"]["finetune"]["early_stopping"] or {}):
        raise UserError(
            "training.finetune.early_stopping.partition: finetuning stops by the dev rows of its "
            "own partition; leave this key out"
        )


def _check_llm(values: Mapping[str, Any], name: str, lengths: Mapping[str, int]) -> None:
    """Check that an LLM and its distiller are there and have room for what they will read."""
    llm = values["llms"][name]
    if llm.get("int8") and llm.get("sharded"):
        raise UserError(f"llms.{name}.sharded: not together with int8; choose one")
    positions = _positions(values, f"llms.{name}.path", llm["path"])
    distiller_positions = _positions(
        values, f"llms.{name}.distiller.path", llm["distiller"]["path"]
    )
    if positions is None:
        return
    window = values["benchmark"]["corpus"]["window"]
    if window > positions:
        raise UserError(
            f"benchmark.corpus.window: chunks of {window} tokens exceed the {positions} positions "
            f"of {name}"
        )
    for method, settings in values["methods"].items():
        check_room(
            values["protocol"],
            positions,
            length=max(settings.get("length", 0), lengths.get(method, 0)) or None,
            distiller_positions=distiller_positions if uses_distiller(method) else None,
            run=f"llms.{name}, methods.{method}",
        )


def _positions(values: Mapping[str, Any], key: str, path: str) -> int | None:
    """Return the longest input of a model in a folder; None if it has no end or is on the hub."""
    if path.startswith(f"{values['results'].rstrip('/')}/local-models/"):
        if "local_models" not in values:
            raise UserError(f"local_models: missing, and {key} names a model that it makes")
        return values["local_models"]["positions"]
    folder = Path(path)
    if not folder.is_dir():
        # Hub names are `name` or `owner/name`; anything else is meant as a folder.
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise UserError(f"{key}: there is no folder {path}")
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {folder}/config.json cannot be read: {error}") from None
    if "relative_attention_num_buckets" in config:
        return None  # T5's relative positions have no end
    return config.get("n_positions") or config.get("max_position_embeddings")


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))
