"""The training job: from a specification and records on disk to a folder of weights."""

from __future__ import annotations

import math
import platform
import resource
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers

from mend import __version__
from mend.atomic_io import atomic_folder, write_json
from mend.configuration.specs.training import TrainingSpec
from mend.data.cuts import log_cuts
from mend.data.examples import ChunkExamples, EpisodeExamples, Example
from mend.data.template import Template
from mend.errors import UserError
from mend.methods.built import BuiltMethod, build_method
from mend.methods.saved import DESCRIPTION, describe
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm
from mend.progress import logger
from mend.provenance import checksums
from mend.training.checkpoint import Checkpoint
from mend.training.distributed import Processes, joined_processes
from mend.training.gradients import float32_products
from mend.training.loop import TrainingResult, train, write_metrics
from mend.training.operations import measured_peak
from mend.training.signals import Stopped, StopSignals
from mend.training.teacher import TaughtExamples, TeacherStates

ROOT = Path(__file__).parents[2]
"""The clone that the package is in, unless it is installed."""


def run_training(
    spec: TrainingSpec,
    output: str | Path,
    chunks: str | Path | None = None,
    episodes: str | Path | None = None,
    tasks: str | Path | None = None,
    initial: str | Path | None = None,
    teacher: str | Path | None = None,
    dev_score: Callable[[FrozenLLM, BuiltMethod], Callable[[], float]] | None = None,
) -> None:
    """Train a method in one stage and write weights.safetensors, record.json, metrics.jsonl.

    chunks: Parquet of a pretraining job; episodes: Parquet of a finetuning job, with `tasks`,
    the folder of task Parquet files. initial: the folder of the stage before, if there was one.
    teacher: what `mend.training.teacher` wrote for these examples; without it the teacher runs at
    each step. dev_score: makes what scores the method, for early stopping
    (`mend.training.dev_score`); without it the last weights are kept. It is handed over so that a
    training that scores nothing does not run again for a change of scoring.
    With several processes (see `mend.training.distributed`) the first alone writes.
    A job that was killed resumes from the checkpoint beside `output`. On SIGTERM, SIGINT or
    SIGUSR1 it finishes its step, saves a checkpoint and raises SystemExit with 128 + the signal.
    """
    training = spec.training
    name = f"{training.stage} {spec.llm.name} {spec.method.name}"
    with joined_processes() as processes:
        torch.manual_seed(training.seed)
        llm = load_llm(spec.llm, dropout=spec.objective.llm_dropout_in_training)
        method = build_method(llm, spec)
        if initial:
            method.load(Path(initial) / "weights.safetensors", stage="pretrain")
        examples = _examples(spec, llm, method, teacher, chunks, episodes, tasks)
        precision, peak = _measured_peak(llm, method, processes)
        identity = spec.model_dump(mode="json")
        checkpoint = Checkpoint(f"{str(output).rstrip('/')}.checkpoint", identity)
        with StopSignals() as signals:
            try:
                result = train(
                    llm,
                    method,
                    examples,
                    training,
                    spec.objective,
                    dev_score=dev_score(llm, method) if dev_score else None,
                    checkpoint=checkpoint,
                    name=name,
                    received_signal=lambda: signals.received,
                    processes=processes,
                )
            except Stopped as stopped:
                logger.warning("%s", stopped)
                raise SystemExit(stopped.exit_status) from None
            speed = _speed(result, precision, peak)
            if processes.is_first:
                inputs = [chunks, episodes, initial and Path(initial) / "weights.safetensors"]
                made_of = checksums(inputs, Path(output) / "record.json")
                _write_results(spec, llm, method, result, speed, processes, made_of, output)
                log_cuts(name, result.cuts)
                checkpoint.remove()
        logger.info(
            "%s: %d steps in %.0f s, weights of step %d%s",
            name,
            result.steps,
            result.seconds,
            result.best_step,
            _speed_text(speed),
        )


def _examples(
    spec: TrainingSpec,
    llm: FrozenLLM,
    method: BuiltMethod,
    teacher: str | Path | None,
    chunks: str | Path | None,
    episodes: str | Path | None,
    tasks: str | Path | None,
) -> Sequence[Example]:
    """Read the examples of a stage; raises UserError if the teacher's states are of fewer."""
    training = spec.training
    limits = {"llm": spec.reading.longest_context.llm, "distiller": method.longest_context()}
    states = TeacherStates(teacher, llm) if teacher else None
    if training.stage == "pretrain":
        examples = ChunkExamples(
            chunks,
            training.beta,
            limits,
            training.seed,
            llm.max_positions,
            method.context_length,
            method.keeps_positions,
        )
    else:
        template = Template(llm.tokenizer, spec.reading, llm.max_positions)
        choice = bool(training.losses.choice)
        of_contexts = method.context_length, choice, method.keeps_positions
        examples = EpisodeExamples(episodes, tasks, template, limits, *of_contexts)
    if states is None:
        return examples
    needed = min(training.steps * training.batch_size, len(examples))
    if len(states) < needed:
        raise UserError(
            f"{teacher}: states of {len(states)} examples, and {needed} are trained on; remove the "
            "folder, and it is made again"
        )
    return TaughtExamples(examples, states)


def _measured_peak(llm: FrozenLLM, method: BuiltMethod, processes: Processes) -> tuple[str, float]:
    """Return the precision of a training's matrix products, and its devices' peak in it.

    The narrowest that some have on a GPU: bfloat16, float16, or float32 (tf32 where it is rounded).
    """
    types = [llm.dtype, *(getattr(part, "precision", llm.dtype) for part in method.children())]
    on_gpu = llm.device.type == "cuda"
    narrow = [dtype for dtype in types if dtype != torch.float32 and on_gpu]
    dtype = narrow[0] if narrow else torch.float32
    with float32_products(llm.device, method.rounds_to_tf32):
        peak = sum(processes.all_gather(measured_peak(llm.device, dtype)))
    rounded = on_gpu and not narrow and method.rounds_to_tf32
    return "tf32" if rounded else str(dtype).removeprefix("torch."), peak


def _speed(result: TrainingResult, precision: str, peak: float) -> dict[str, Any]:
    """Return the record's keys on operations, None where they are not known.

    flops: that all steps needed; step_seconds: that they took; peak_flops: operations a second of
    large matrix products, on all devices together; utilisation: the share of it that was reached.
    """
    known = math.isfinite(result.flops) and result.step_seconds > 0
    return {
        "flops": result.flops if math.isfinite(result.flops) else None,
        "step_seconds": result.step_seconds,
        "peak_precision": precision,
        "peak_flops": peak,
        "utilisation": result.flops / result.step_seconds / peak if known else None,
    }


def _speed_text(speed: Mapping[str, Any]) -> str:
    if speed["utilisation"] is None:
        return ""
    return (
        f"; {speed['flops'] / speed['step_seconds'] / 1e12:.3g} TFLOP/s, "
        f"{100 * speed['utilisation']:.3g} % of the {speed['peak_flops'] / 1e12:.3g} that "
        "large matrices were multiplied with here"
    )


def _write_results(
    spec: TrainingSpec,
    llm: FrozenLLM,
    method: BuiltMethod,
    result: TrainingResult,
    speed: Mapping[str, Any],
    processes: Processes,
    made_of: Mapping[str, str],
    output: str | Path,
) -> None:
    """Write the folder that a training job makes, all of it or nothing."""
    training = spec.training
    record = {
        "llm": spec.llm.name,
        "method": spec.method.name,
        "variant": training.variant,
        "partition": training.partition,
        "stage": training.stage,
        "steps": result.steps,
        "best_step": result.best_step,
        "best_score": result.best_score if training.early_stopping else None,
        "stopped_early": result.stopped_early,
        "examples": result.examples,
        "seconds": result.seconds,
        **speed,
        "parameters_trained": sum(value.numel() for value in method.parameters()),
        "seed": training.seed,
        "cuts": result.cuts,
        "processes": processes.count,
        "made_of": made_of,
        **provenance(llm),
    }
    with atomic_folder(output) as folder:
        trained = {key: record[key] for key in ("stage", "partition", "variant", "seed")}
        # No path: the same training in another place writes the same bytes.
        source = {"name": spec.llm.name, "revision": spec.llm.revision}
        method.save(folder / "weights.safetensors", **trained, source=source)
        write_metrics(result.metrics, folder / "metrics.jsonl")
        write_json(record, folder / "record.json")
        write_json(describe(method).model_dump(mode="json"), folder / DESCRIPTION)


def provenance(llm: FrozenLLM) -> dict:
    """Return what a result was made with: versions, commit, device."""
    commit = ""
    if (ROOT / ".git").exists():  # an installed package may lie in another project's repository
        with suppress(OSError):  # no git
            commit = subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
            ).stdout.strip()
    cuda = llm.device.type == "cuda"
    return {
        "versions": {
            "mend": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "commit": commit or None,
        "device": torch.cuda.get_device_name(llm.device) if cuda else "cpu",
        "cpu": platform.processor() or platform.machine(),
        # On a processor that of the whole process, which getrusage tells in KiB.
        "peak_memory_bytes": torch.cuda.max_memory_allocated(llm.device)
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10,
    }
