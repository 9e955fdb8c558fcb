"""The paths of jobs below the results folder: written and parsed here, and nowhere else.

A run is named by what differs from its method's configuration: its *variant* is what differs in
training (`length=4,pretrain.beta=0.5`, or `default`), its *condition* how it is evaluated
(`selection=bm25,shots=16`), the part of it that samples demonstrations is its *sampling*. All are
parts of paths and can be read back, so that a path says all about a run. A variant may leave a
setting to be chosen by dev scores: `length=4~8` is the better of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mend.errors import UserError

DEFAULT = "default"
"""The text of no settings."""

OR = "~"
"""Between the candidates for a setting, of which dev scores choose one; no name has it."""

LONGEST_FOLDER = 200
"""Bytes of the name of a folder: file systems take 255, and endings are put after some."""

TEXTS = ("template",)
"""Settings whose values are names, which may look like numbers."""

SAMPLING = ("shots", "selection")
"""Settings of a condition that decide which demonstrations are sampled."""


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as a part of a path, such as `length=4,pretrain.beta=0.5`.

    A list holds candidates.
    """
    return ",".join(f"{key}={_text(settings[key])}" for key in sorted(settings)) or DEFAULT


def parse_settings(text: str) -> dict[str, Any]:
    """Return the settings that `settings_text` wrote."""
    if text == DEFAULT:
        return {}
    parts = [part.partition("=") for part in text.split(",")]
    return {key: value if key in TEXTS else _value(value) for key, _, value in parts}


def sampling_of(condition: str) -> str:
    """Return the part of a condition that samples demonstrations: the name of their folder."""
    settings = parse_settings(condition)
    return settings_text({key: settings[key] for key in SAMPLING if key in settings})


def pretraining_variant(variant: str) -> str:
    """Return the part of a variant that pretraining depends on: its stage is shared by it."""
    settings = parse_settings(variant)
    return settings_text(
        {key: value for key, value in settings.items() if key.split(".")[0] != "finetune"}
    )


@dataclass(frozen=True)
class JobPath:
    """The place of one job's output, without its ending, below the results folder.

    kind: the job's command; the other fields are those parts of the path that it has. seed: whose
    order of chunks a teacher's states are in, if it is not `training.seed`.
    """

    kind: str
    llm: str = ""
    method: str = ""
    variant: str = ""
    partition: str = ""
    condition: str = ""
    stage: str = ""
    sampling: str = ""
    split: str = ""
    beta: float = 0.0
    seed: int | None = None
    study: str = ""
    model: str = ""

    def __str__(self) -> str:
        """Return the path."""
        match self.kind:
            case "pocket-world" | "download-benchmark":
                return "data/benchmark"
            case "download-corpus":
                return "data/corpus"
            case "download-pool":
                return "data/pool-files"
            case "pool":
                return "data/pool"
            case "own-tasks":
                return "data/own-tasks"
            case "tasks":
                return "data/tasks"
            case "local-models":
                return "local-models"
            case "gguf-model":
                return f"gguf-models/{self.model}"
            case "chunks":
                return f"data/chunks/{self.llm}"
            case "train-episodes":
                return f"data/episodes/train/{self.partition}"
            case "evaluation-episodes":
                return f"data/episodes/{self.sampling}/{self.split}"
            case "teacher":
                order = {} if self.seed is None else {"seed": self.seed}
                last = settings_text({"beta": self.beta, **order}) if self.beta else self.partition
                return f"data/teacher/{self.llm}/{self.stage}/{last}"
            case "train":
                run = f"runs/{self.llm}/{self.method}"
                if self.stage == "pretrain":
                    return f"{run}/{pretraining_variant(self.variant)}/pretrain"
                return f"{run}/{self.variant}/{self.partition}/finetune"
            case "choose":
                run = f"runs/{self.llm}/{self.method}/{self.variant}"
                return f"{run}/{self.partition}/chosen"
            case "predict":
                run = f"runs/{self.llm}/{self.method}/{self.variant}"
                return f"{run}/{self.partition}/{self.condition}/predict"
            case "divergence":
                return f"divergence/{self.study}/{self.llm}"
            case "efficiency" | "attention":
                return f"{self.kind}/{self.llm}"
            case "study":
                return self.study
        return self.kind  # table1, table5, report


def parse_job_path(path: str) -> JobPath:
    """Return the job that a path is of; raises UserError if it is no job's."""
    match path.split("/"):
        case ["data", "benchmark"]:
            found = JobPath("pocket-world")
        case ["data", "corpus"]:
            found = JobPath("download-corpus")
        case ["data", "pool-files"]:
            found = JobPath("download-pool")
        case ["data", "pool"]:
            found = JobPath("pool")
        case ["data", "own-tasks"]:
            found = JobPath("own-tasks")
        case ["data", "tasks"]:
            found = JobPath("tasks")
        case ["local-models"]:
            found = JobPath("local-models")
        case ["gguf-models", model]:
            found = JobPath("gguf-model", model=model)
        case ["data", "chunks", llm]:
            found = JobPath("chunks", llm)
        case ["data", "episodes", "train", partition]:
            found = JobPath("train-episodes", partition=partition)
        case ["data", "episodes", sampling, split]:
            found = JobPath("evaluation-episodes", sampling=sampling_of(sampling), split=split)
        case ["data", "teacher", llm, "pretrain", cut]:
            of_chunks = parse_settings(cut)
            beta, seed = of_chunks.get("beta", 0.0), of_chunks.get("seed")
            found = JobPath("teacher", llm, stage="pretrain", beta=beta, seed=seed)
        case ["data", "teacher", llm, "finetune", partition]:
            found = JobPath("teacher", llm, stage="finetune", partition=partition)
        case ["runs", llm, method, variant, "pretrain"]:
            found = JobPath("train", llm, method, variant, stage="pretrain")
        case ["runs", llm, method, variant, partition, "finetune"]:
            found = JobPath("train", llm, method, variant, partition, stage="finetune")
        case ["runs", llm, method, variant, partition, "chosen"]:
            found = JobPath("choose", llm, method, variant, partition)
        case ["runs", llm, method, variant, partition, condition, "predict"]:
            found = JobPath("predict", llm, method, variant, partition, condition)
        case ["divergence", study, llm]:
            found = JobPath("divergence", llm, study=study)
        case ["efficiency" | "attention" as kind, llm]:
            found = JobPath(kind, llm)
        case ["table1" | "table5" | "report" as kind]:
            found = JobPath(kind)
        case [study]:
            found = JobPath("study", study=study)
        case _:
            found = None
    if found is None or str(found) != path:
        raise UserError(f"there is no job for {path}.spec.json")
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return OR.join(map(_text, value))
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def _value(text: str) -> Any:
    if OR in text:
        return list(map(_value, text.split(OR)))
    words = {"none": None, "true": True, "false": False}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
