"""What the frozen LLM makes of demonstrations and query, computed once and kept on disk.

The teacher of distillation never changes: for each example it is the frozen LLM after the same
demonstrations. Kept are its last hidden states over the queries' tokens, (tokens, width) for each
example in the order of training, from which the output head makes the distributions again. Every
run that distils the same LLM on the same examples reads the same file (lambda, l, each ablation).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from safetensors import safe_open
from torch import Tensor

from mend.data.examples import ChunkExamples, EpisodeExamples, Example
from mend.data.template import Template
from mend.errors import UserError
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import load_llm
from mend.progress import Progress, logger
from mend.training.losses import teacher_states

#: Examples whose states are written at once; within them, those of similar length go together.
WINDOW = 512

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class TeacherStates:
    """The states of a file, by the number of their example. Read as needed, never as a whole."""

    def __init__(self, path: str | Path) -> None:
        """Open a file that `write_teacher_states` wrote; raises UserError if it is none."""
        try:
            self._file = safe_open(path, "pt")
            self._starts = self._file.get_tensor("starts").tolist()
        except Exception as error:  # safetensors has an exception of its own, by no public name
            raise UserError(f"{path}: not a file of a teacher's states: {error}") from error
        self._states = self._file.get_slice("states")

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Tensor:
        """Return the states of example `index`, (tokens, width)."""
        return self._states[self._starts[index] : self._starts[index + 1]]


def write_teacher_states(
    spec: dict,
    output: str | Path,
    chunks: str | Path | None = None,
    episodes: str | Path | None = None,
    tasks: str | Path | None = None,
) -> None:
    """Write the teacher's states of training examples, as safetensors: `states` and `starts`.

    spec: llm, protocol, teacher {stage, examples, seed, beta}.
    chunks: Parquet, for pretraining; episodes: Parquet, for finetuning, with `tasks`, the folder of
    task Parquet files. Before anything is computed the file's size is said, and compared with the
    free disk. A job that was killed goes on from what it had written.
    Raises UserError if the disk has no room.
    """
    llm = load_llm(spec["llm"])
    wanted = spec["teacher"]
    longest = spec["protocol"]["longest_context"]["llm"]
    limits = {"llm": longest, "distiller": longest}
    if wanted["stage"] == "pretrain":
        examples = ChunkExamples(chunks, wanted["beta"], limits, wanted["seed"])
    else:
        template = Template(llm.tokenizer, spec["protocol"], llm.positions)
        examples = EpisodeExamples(episodes, tasks, template, limits)
    number = min(wanted["examples"], len(examples))
    lengths = [_tokens_predicted(llm, examples[i], wanted["stage"]) for i in range(number)]
    file = _StatesFile(Path(output), spec, lengths, llm)
    file.check_room(f"training.{wanted['stage']}.teacher_cache")
    name = f"teacher {spec['llm']['name']}"
    logger.info("%s: %d examples, %.2f GB in %s", name, number, file.size / 1e9, output)
    progress = Progress(name, number)
    for start in range(file.begin(), number, WINDOW):
        window = [examples[i] for i in range(start, min(start + WINDOW, number))]
        file.append(_states_of(llm, window, wanted["stage"]))
        progress.update(start + len(window))
    file.finish()


def _tokens_predicted(llm: FrozenLLM, example: Example, stage: str) -> int:
    """How many states an example has: one for each token that the LLM predicts."""
    whole = llm.predicts_query or stage == "pretrain"
    return sum(len(y) + (len(x) if whole else 0) for x, y in example.queries)


def _states_of(llm: FrozenLLM, window: Sequence[Example], stage: str) -> list[Tensor]:
    """Return each example's states, computed with others of similar length."""
    order = sorted(range(len(window)), key=lambda index: len(window[index].teacher_demonstrations))
    states: dict[int, Tensor] = {}
    at_once = 64 if llm.device.type == "cuda" else 16
    while order:
        part = order[:at_once]
        try:
            found = teacher_states(llm, [window[index] for index in part], stage)
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once = max(1, len(part) // 2)
            continue
        states.update(zip(part, (one.cpu() for one in found), strict=True))
        order = order[at_once:]
    return [states[index] for index in range(len(window))]


class _StatesFile:
    """A safetensors file that is written piece by piece, for it may be larger than memory.

    Its header holds the specification: a partial file of another job is not gone on from.
    """

    def __init__(self, path: Path, spec: dict, lengths: Sequence[int], llm: FrozenLLM) -> None:
        self.path, self.lengths = path, lengths
        self.partial = path.with_name(f".{path.name}.partial")
        self.row = llm.width * llm.embedding.weight.element_size()
        total = sum(lengths)
        starts = numpy.concatenate([[0], numpy.cumsum(lengths)]).astype("<i8").tobytes()
        data = total * self.row
        header = {
            "__metadata__": {"spec": json.dumps(spec, sort_keys=True)},
            "starts": {
                "dtype": "I64",
                "shape": [len(lengths) + 1],
                "data_offsets": [0, len(starts)],
            },
            "states": {
                "dtype": _NAMES[llm.dtype],
                "shape": [total, llm.width],
                "data_offsets": [len(starts), len(starts) + data],
            },
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.head = len(text).to_bytes(8, "little") + text + starts
        self.size = len(self.head) + data

    def check_room(self, key: str) -> None:
        """Raise UserError if the disk has no room for what is still to be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        there = self.partial.stat().st_size if self.partial.exists() else 0
        free = shutil.disk_usage(self.path.parent).free
        if self.size - there > free:
            raise UserError(
                f"{self.path}: the teacher's states take {self.size / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB are free; make room, or set {key} to false, and the teacher "
                "runs at every step instead"
            )

    def begin(self) -> int:
        """Open the file; return the first example of the first window that it does not hold."""
        mode = "r+b" if self.partial.exists() else "w+b"
        self.file = open(self.partial, mode)  # noqa: SIM115 (`finish` closes it)
        there = self.file.seek(0, os.SEEK_END)
        self.file.seek(0)
        done = 0
        if there >= len(self.head) and self.file.read(len(self.head)) == self.head:
            written = numpy.cumsum(self.lengths) * self.row <= there - len(self.head)
            whole = int(written.sum())
            done = whole if whole == len(self.lengths) else whole - whole % WINDOW
        self.file.seek(0)
        self.file.write(self.head)
        self.file.truncate(len(self.head) + sum(self.lengths[:done]) * self.row)
        self.file.seek(0, os.SEEK_END)
        return done

    def append(self, states: Sequence[Tensor]) -> None:
        """Write the states of the next examples."""
        for one in states:
            # numpy knows no bfloat16: bytes are bytes.
            self.file.write(one.contiguous().view(torch.uint8).numpy().tobytes())
        self.file.flush()

    def finish(self) -> None:
        """Close the file and give it its name."""
        self.file.close()
        os.replace(self.partial, self.path)
