"""The metrics of training runs as TensorBoard shows them.

The record of a run is its metrics.jsonl; event files are made of it when somebody wants to look, so
that training needs no TensorBoard and a run that was killed has no line twice.
"""

from __future__ import annotations

from pathlib import Path

from mend.atomic_io import atomic_folder
from mend.errors import UserError
from mend.progress import logger
from mend.reporting.metrics import read_metrics


def write_events(results: str | Path, output: str | Path) -> None:
    """Write event files of every run below `results` into `output`, which they replace.

    A job that is still running is shown as far as its last checkpoint.
    Raises UserError if there is no run, a line is not JSON, or TensorBoard is not installed.
    """
    runs = find_metrics(results)
    if not runs:
        raise UserError(f"{results}: no metrics.jsonl in it; name the folder of results")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"tensorboard is not installed: pip install tensorboard ({error})"
        ) from None
    with atomic_folder(output) as folder:
        for name, file in runs.items():
            with SummaryWriter(folder / name) as writer:
                for row in read_metrics(file):
                    for key in row.keys() - {"step"}:
                        writer.add_scalar(key, row[key], row["step"])
    logger.info("%d runs; now: tensorboard --logdir %s", len(runs), output)


def find_metrics(results: str | Path) -> dict[str, Path]:
    """Return the metrics of each run below a folder, by the run's path there."""
    files = sorted(Path(results).rglob("metrics.jsonl"))
    # Of a job that is done and was killed before it removed its checkpoint, the result counts.
    files.sort(key=lambda file: not file.parent.name.endswith(".checkpoint"))
    found = {}
    for file in files:
        run = file.parent.relative_to(results)
        if not any(part.endswith(".partial") for part in run.parts):
            found[str(run).removesuffix(".checkpoint")] = file
    return found
