"""What the frozen LLM makes of demonstrations and query, computed once and kept on disk.

The teacher of distillation never changes: for each example it is the frozen LLM after the same
demonstrations. Kept are its last hidden states over the queries' tokens, (tokens, width) for each
example in the order of training, from which the output head makes the distributions again. Every
run that distils the same LLM on the same examples reads the same states (lambda, l, each ablation).
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mend.atomic_io import atomic_file, make_folder, replace_folder
from mend.configuration.specs.teacher import TeacherSpec
from mend.data.examples import ChunkExamples, EpisodeExamples, Example
from mend.data.template import Template
from mend.errors import UserError
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm
from mend.models.tensor_files import TensorFile, save_tensors
from mend.progress import Progress, logger
from mend.training.losses import teacher_states

#: Examples in a shard; within them, those of similar length are computed together.
SHARD = 512
_AGAIN = "remove the folder, and it is made again"


class TeacherStates:
    """The states of a folder of shards, by the number of their example.

    One shard is open at a time, and mapped into memory as it is read: training reads in order.
    """

    def __init__(self, folder: str | Path, llm: FrozenLLM) -> None:
        """Open a folder that `write_teacher_states` wrote.

        Raises UserError if it is none, or of another LLM.
        """
        self.folder, self._expected = Path(folder), {"LLM": llm.fingerprint}
        self._shards = sorted(self.folder.glob("*.safetensors"))
        if not self._shards:
            raise UserError(f"{folder}: not a folder of a teacher's states, or of no example")
        self._in_shard = len(self._open(0).names)
        last = len(self._open(len(self._shards) - 1).names)
        self._length = self._in_shard * (len(self._shards) - 1) + last

    def __len__(self) -> int:
        """How many examples there are."""
        return self._length

    def __getitem__(self, index: int) -> Tensor:
        """Return the states of example `index`, (tokens, width)."""
        return self._shard_of(index)[str(index)]

    def check(self, index: int, example: Example) -> None:
        """Raise UserError unless the states of example `index` are of its own tokens."""
        shard = self._shard_of(index)
        if shard.identity["tokens"].get(str(index)) != _checksum(example):
            raise shard.refuse(f"example {index} has other tokens here; {_AGAIN}")

    def _shard_of(self, index: int) -> TensorFile:
        number = index // self._in_shard
        return self._shard if number == self._number else self._open(number)

    def _open(self, number: int) -> TensorFile:
        shard = TensorFile(self._shards[number], "a file of a teacher's states")
        shard.check(self._expected)
        start = number * self._in_shard if number else 0
        if set(shard.names) != {str(start + index) for index in range(len(shard.names))}:
            raise shard.refuse(f"it is not number {number}; {_AGAIN}")
        self._shard, self._number = shard, number
        return shard


class TaughtExamples(Sequence):
    """Examples with the states that their teacher came to."""

    def __init__(self, examples: Sequence[Example], states: TeacherStates) -> None:
        """states: of these examples, by their numbers."""
        self.examples, self.states = examples, states

    def __len__(self) -> int:
        """How many different examples there are."""
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        """Return example `index`; raises UserError if the states there are of another."""
        index %= len(self.examples)
        example = self.examples[index]
        self.states.check(index, example)
        return replace(example, teacher_states=self.states[index])


def _checksum(example: Example) -> int:
    """Return a checksum of all tokens that a teacher reads of an example."""
    read = [list(example.teacher_demonstrations), [[[*x], [*y]] for x, y in example.queries]]
    return zlib.crc32(json.dumps(read).encode())


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
    if not number:
        raise UserError(f"{output}: there is no example to keep the states of")
    lengths = [_predicted_tokens(llm, examples[i], wanted.stage) for i in range(number)]
    size = sum(lengths) * llm.width * llm.embedding.weight.element_size()

    output = Path(output)
    partial = output.with_name(f".{output.name}.partial")
    make_folder(partial)
    identity = {
        "LLM": llm.fingerprint,
        "spec": spec.model_dump(mode="json", exclude={"llm": {"path"}}),
    }
    done = _whole_shards(partial, identity, lengths)
    _check_disk(output, size, done, f"training.{wanted.stage}.teacher_cache")
    name = f"teacher {spec.llm.name}"
    logger.info("%s: %d examples, %.2f GB in %s", name, number, size / 1e9, output)
    progress = Progress(name, number)
    for start in range(len(done) * SHARD, number, SHARD):
        numbers = range(start, min(start + SHARD, number))
        of_shard = {str(i): examples[i] for i in numbers}
        states = _states_of(llm, list(of_shard.values()), wanted.stage)
        tokens = {name: _checksum(example) for name, example in of_shard.items()}
        with atomic_file(partial / f"{start // SHARD:06d}.safetensors") as temporary:
            tensors = dict(zip(of_shard, states, strict=True))
            save_tensors(tensors, temporary, identity | {"tokens": tokens})
        progress.update(numbers.stop)
    replace_folder(partial, output)


def _whole_shards(partial: Path, identity: Mapping[str, Any], lengths: Sequence[int]) -> list[Path]:
    """Return the first shards of a job that was killed; other shards there are removed.

    Raises UserError for a file that no such job wrote.
    """
    shards: list[Path] = []
    for path in sorted(partial.iterdir()):
        if not re.fullmatch(r"\d{6}\.safetensors|\..+", path.name):
            raise UserError(f"{path}: no teacher's states; remove it or name another --output")
        start = len(shards) * SHARD
        expected = {str(start + i): one for i, one in enumerate(lengths[start : start + SHARD])}
        if expected and _holds(path, identity, expected):
            shards.append(path)
        else:
            path.unlink()
    return shards


def _holds(path: Path, identity: Mapping[str, Any], lengths: dict[str, int]) -> bool:
    """Whether a file holds just the states of these examples, from a job told the same."""
    try:
        shard = TensorFile(path, "a file of a teacher's states")
        shard.check(identity)
        return {name: shard.shape(name)[0] for name in shard.names} == lengths
    except UserError:
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
