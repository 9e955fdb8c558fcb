"""Little trained runs for tests of the library, as the workflow's training jobs leave them."""

from __future__ import annotations

from pathlib import Path

from helpers.jobs import changed, specification
from mend.configuration.specs.training import TrainingSpec
from mend.training.job import run_training


def trained_run(
    data: Path, folder: Path, architecture: str = "gpt2", method: str = "mend", **parts: dict
) -> TrainingSpec:
    """Train a method for some steps into `folder/run`, and return what the job was told.

    parts: other values in parts of the specification, such as distiller={"layers": [1]}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    losses = {"pred": 1.0} if method == "prompt-tuning" else {"pred": 1.0, "distill": 1.0}
    spec = specification(folder, architecture, method, stage="finetune", losses=losses)
    spec = changed(spec, training={"partition": "all", "learning_rate": 0.05}, **parts)
    run_training(spec, folder / "run", episodes=data / "train.parquet", tasks=data / "tasks")
    return spec
