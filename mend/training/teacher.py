"""What the frozen LLM makes of demonstrations and query, computed once and kept on disk.

The teacher of distillation never changes: for each example it is the frozen LLM after the same
demonstrations. Kept are its last hidden states over the queries' tokens, (tokens, width) for each
example in the order of training, from which the output head makes the distributions again. Every
run that distils the same LLM on the same examples reads the same states (lambda, l, each ablation).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mend.atomic_io import atomic_file
from mend.configuration.specs.teacher import TeacherSpec
from mend.data.examples import ChunkExamples, EpisodeExamples, Example
from mend.data.template import Template
from mend.errors import UserError
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm
from mend.progress import Progress, logger
from mend.training.losses import teacher_states

#: Examples in a shard; within them, those of similar length are computed together.
SHARD = 512


class TeacherStates:
    """The states of a folder of shards, by the number of their example.

    One shard is open at a time, and mapped into memory as it is read: training reads in order.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a folder that `write_teacher_states` wrote; raises UserError if it is none."""
        self.folder = Path(folder)
        self._shards = sorted(self.folder.glob("*.safetensors"))
        if not self._shards:
            raise UserError(f"{folder}: not a folder of a teacher's states")
        last = len(self._open(len(self._shards) - 1).keys())
        self._in_shard = len(self._open(0).keys())
        self._length = self._in_shard * (len(self._shards) - 1) + last

    def __len__(self) -> int:
        """How many examples there are."""
        return self._length

    def __getitem__(self, index: int) -> Tensor:
        """Return the states of example `index`, (tokens, width)."""
        shard = index // self._in_shard
        if shard != self._number:
            self._open(shard)
        return self._shard.get_tensor(str(index))

    def _open(self, number: int) -> Any:
        path = self._shards[number]
        try:
            self._shard = safe_open(path, "pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a file of a teacher's states: {error}") from error
        self._number = number
        return self._shard


def write_teacher_states(
    spec: TeacherSpec,
    output: str | Path,
    chunks: str | Path | None = None,
    episodes: str | Path | None = None,
    tasks: str | Path | None = None,
) -> None:
    """Write the teacher's states of training examples: a folder of shards, whole or not at all.

    A shard holds the states of SHARD examples, (tokens, width) each, by their numbers.
    chunks: Parquet, for pretraining; episodes: Parquet, for finetuning, with `tasks`, the folder of
    task Parquet files. Before anything is computed the size is said, and compared with the free
    disk. A job that was killed resumes at the first shard that it had not written.
    Raises UserError if the disk has no room.
    """
    llm = load_llm(spec.llm)
    wanted = spec.teacher
    longest = spec.reading.longest_context.llm
    limits = {"llm": longest, "distiller": longest}
    if wanted.stage == "pretrain":
        examples = ChunkExamples(chunks, wanted.beta, limits, wanted.seed, llm.max_positions)
    else:
        template = Template(llm.tokenizer, spec.reading, llm.max_positions)
        examples = EpisodeExamples(episodes, tasks, template, limits)
    number = min(wanted.examples, len(examples))
    lengths = [_predicted_tokens(llm, examples[i], wanted.stage) for i in range(number)]
    size = sum(lengths) * llm.width * llm.embedding.weight.element_size()

    output = Path(output)
    partial = output.with_name(f".{output.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    identity = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
    done = _whole_shards(partial, identity, lengths)
    _check_disk(output, size, done, f"training.{wanted.stage}.teacher_cache")
    name = f"teacher {spec.llm.name}"
    logger.info("%s: %d examples, %.2f GB in %s", name, number, size / 1e9, output)
    progress = Progress(name, number)
    for start in range(len(done) * SHARD, number, SHARD):
        numbers = range(start, min(start + SHARD, number))
        states = _states_of(llm, [examples[i] for i in numbers], wanted.stage)
        with atomic_file(partial / f"{start // SHARD:06d}.safetensors") as temporary:
            tensors = {str(i): one for i, one in zip(numbers, states, strict=True)}
            save_file(tensors, temporary, metadata={"spec": identity})
        progress.update(numbers.stop)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(partial, output)


def _whole_shards(partial: Path, identity: str, lengths: Sequence[int]) -> list[Path]:
    """Return the first shards of a job that was killed; whatever else is there is removed."""
    shards: list[Path] = []
    for path in sorted(partial.iterdir()):
        start = len(shards) * SHARD
        expected = {str(start + i): one for i, one in enumerate(lengths[start : start + SHARD])}
        if expected and _holds(path, identity, expected):
            shards.append(path)
        else:
            path.unlink()
    return shards


def _holds(path: Path, identity: str, lengths: dict[str, int]) -> bool:
    """Whether a file holds just the states of these examples, from a job told the same."""
    try:
        with safe_open(path, "pt") as shard:
            names = shard.keys()
            found = {name: shard.get_slice(name).get_shape()[0] for name in names}
            return found == lengths and shard.metadata() == {"spec": identity}
    except (SafetensorError, OSError):
        return False


def _check_disk(output: Path, size: int, done: Sequence[Path], key: str) -> None:
    """Raise UserError if the disk has no room for what is still to be written."""
    free = shutil.disk_usage(output.parent).free
    if size - sum(path.stat().st_size for path in done) > free:
        raise UserError(
            f"{output}: the teacher's states take {size / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; make room, or set {key} to false, and the teacher "
            "runs at every step instead"
        )


def _predicted_tokens(llm: FrozenLLM, example: Example, stage: str) -> int:
    """How many states an example has: one for each token that the LLM predicts."""
    whole = llm.predicts_query or stage == "pretrain"
    return sum(len(y) + (len(x) if whole else 0) for x, y in example.queries)


def _states_of(llm: FrozenLLM, examples: Sequence[Example], stage: str) -> list[Tensor]:
    """Return each example's states, computed with others of similar length."""
    order = sorted(
        range(len(examples)), key=lambda index: len(examples[index].teacher_demonstrations)
    )
    states: dict[int, Tensor] = {}
    batch_size = 64 if llm.device.type == "cuda" else 16
    while order:
        batch = order[:batch_size]
        try:
            found = teacher_states(llm, [examples[index] for index in batch], stage)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size = max(1, len(batch) // 2)
            continue
        states.update(zip(batch, (one.cpu() for one in found), strict=True))
        order = order[batch_size:]
    return [states[index] for index in range(len(examples))]
