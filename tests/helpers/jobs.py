"""Tiny training jobs for tests: records on disk, models, and what a job is told."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.models import DISTILLING, OBJECTIVE, READING, random_llm
from mend.configuration.settings import S
from mend.configuration.specs.chunks import ChunksSpec, TokenizerSource
from mend.configuration.specs.evaluation_episodes import EvaluationEpisodesSpec
from mend.configuration.specs.prediction import PredictionSpec
from mend.configuration.specs.run import (
    DistillerSource,
    LLMSource,
    MethodSource,
    RunSpec,
    ScoringSettings,
)
from mend.configuration.specs.tasks import TasksSpec
from mend.configuration.specs.teacher import TeacherExamples
from mend.configuration.specs.training import TrainingSpec
from mend.configuration.specs.training_episodes import TrainingEpisodesSpec
from mend.data.corpus import write_chunks
from mend.data.evaluation_episodes import write_evaluation_episodes
from mend.data.tasks import import_tasks
from mend.data.training_episodes import write_training_episodes

SEED = 13


def write_rows(path: Path, count: int, start: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "task": "parity",
            "input": f"w{1 + number % 40} w{2 + number % 7}",
            "output": ("w50", "w51 w52")[number % 2],
            "options": ["w50", "w51 w52"],
        }
        for number in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> None:
    """Write tasks, episodes and text, as the workflow's first rules leave them."""
    files = folder / "raw/data/parity"
    write_rows(files / "parity_16384_100_train.jsonl", 30, 0)
    for number, split in enumerate(("train", "dev", "test")):
        write_rows(files / f"parity_16_{SEED}_{split}.jsonl", 6, 100 * number)
    spec = TasksSpec(train_tasks=["parity"], test_tasks=["parity"], seeds=[SEED])
    import_tasks(spec, folder / "raw", folder / "tasks")
    training = TrainingEpisodesSpec(
        tasks=["parity"],
        shots=3,
        queries_per_episode=2,
        episodes=8,
        seed=0,
        task_sampling="uniform",
    )
    write_training_episodes(training, folder / "tasks", folder / "train.parquet")
    evaluation = EvaluationEpisodesSpec(
        tasks=["parity"], shots=3, seeds=[SEED], demonstrations_at_test="per-row", seed=0
    )
    for split in ("dev", "test"):
        write_evaluation_episodes(evaluation, folder / "tasks", split, folder / f"{split}.parquet")
    text = [" ".join(f"w{(7 * row + word) % 59}" for word in range(24)) for row in range(20)]
    (folder / "text.txt").write_text("\n".join(text), encoding="utf-8")


def specification(folder: Path, architecture: str, method: str, **training) -> TrainingSpec:
    """Save tiny models, and return what a training job is told about them."""
    for name, width in (("llm", 16), ("distiller", 8)):
        llm = random_llm(architecture, width)
        llm.model.save_pretrained(folder / name)
        llm.tokenizer.save_pretrained(folder / name)
    settings = {
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "warmup_fraction": 0.0,
        "schedule": "constant",
        "weight_decay": 0.0,
        "gradient_clip": 1.0,
        "betas": [0.9, 0.98],
        "losses": {"distill": 1.0},
        "checkpoint_every": 2,
        "log_every": 1,
        "seed": 0,
        **training,
    }
    if settings.get("early_stopping"):
        settings["early_stopping"] |= {"metrics": "metaicl", "option_score": "mean"}
    return TrainingSpec(
        llm=LLMSource(name=architecture, path=str(folder / "llm"), local_files_only=True),
        method=MethodSource(name=method, settings={"length": 2}),
        distiller=DistillerSource(path=str(folder / "distiller"), **dict(DISTILLING)),
        reading=READING,
        objective=OBJECTIVE,
        training=settings,
    )


def pretraining(data: Path, folder: Path, architecture: str = "gpt2", **training) -> TrainingSpec:
    """Write models and chunks for an LLM's pretraining, and return its specification."""
    stage = {"stage": "pretrain", "beta": 0.75, "losses": {"distill": 1.0}}
    spec = specification(folder, architecture, "mend", **stage | training)
    write_tiny_chunks(data, folder, spec)
    return spec


def write_tiny_chunks(data: Path, folder: Path, spec: TrainingSpec) -> None:
    """Write chunks of the tiny text as chunks.parquet."""
    llm = spec.llm.subset(TokenizerSource)
    chunks = ChunksSpec(llm=llm, window=16, pretraining_chunks="fixed-windows")
    write_chunks(chunks, [data / "text.txt"], folder / "chunks.parquet")


def teacher_examples(spec: TrainingSpec) -> TeacherExamples:
    """Return what a teacher's job is told of a pretraining's examples."""
    return TeacherExamples(
        stage="pretrain", beta=spec.training.beta, seed=spec.training.seed, examples=100
    )


def prediction(spec: RunSpec, **predict) -> PredictionSpec:
    """Return what a prediction job of the same run is told."""
    settings = {"tasks": ["parity"], "partition": "all", "variant": "default"}
    settings |= {"condition": "shots=3", **predict}
    run = {key: getattr(spec, key) for key in RunSpec.model_fields}
    return PredictionSpec(**run, scoring=ScoringSettings(option_score="mean"), predict=settings)


def changed(spec: S, **parts: dict) -> S:
    """Return a specification with other values in some of its parts."""
    content = spec.model_dump()
    for name, values in parts.items():
        content[name] |= values
    return type(spec).model_validate(content)
