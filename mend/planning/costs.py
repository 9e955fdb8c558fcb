"""What training and prediction cost, in closed form: operations, memory, and how long they take.

For one query, with P the parameters of a model's layers and n the tokens that it reads:

    teacher       2 P n of the LLM, n = demonstrations and query       (once for all runs if cached)
    student       2 P n of the LLM, n = vectors and query, and as much again backward: the LLM is
                  frozen, and only what leads to the vectors is asked for
    distiller     2 P n, n = demonstrations and vectors, and twice as much backward

and besides attention, 4 (layers) (width) (tokens) (tokens attended to), twice that backward, and
the output head where a token is predicted. Both are counted whole where a causal mask hides half.

A plan is asked for before anything is installed on a GPU's machine, of hundreds of jobs at once: it
has closed forms, and no torch. Tests hold them to what PyTorch counts for each architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mend.planning.architectures import BYTES, Architecture, Operations

#: Of mend.evaluation.scoring: contexts and items read at once, by an encoder-decoder and by others.
AT_ONCE, AT_ONCE_ON_GPU = (64, 128), (128, 512)
#: Numbers that training keeps for each token, layer and unit of width: inputs of normalisations,
#: matrices and activation functions (Korthikanti et al. 2022 count 17; GPT-2's GELU has some more).
ACTIVATIONS = 34
#: Float32 copies of the logits that a loss and its gradient hold.
LOGITS = 6
#: What a CUDA process takes before any tensor, and what the allocator cannot use again.
RESERVED, FRAGMENTED = 1.0e9, 1.1

#: name: dense peak in bfloat16 and in float32 (10^12 operations a second), memory (10^9 bytes).
#: From the manufacturer's data sheets.
DEVICES: Mapping[str, tuple[float, float, float]] = {
    "a10": (125, 31.2, 24),
    "a100": (312, 19.5, 80),
    "h100": (989, 67, 80),
    "h200": (989, 67, 141),
    "l4": (121, 30.3, 24),
    "l40s": (362, 91.6, 48),
    "rtx4090": (165, 82.6, 24),
}
#: Assumed: the share of a peak that large matrix products reach, and the seconds that one layer
#: takes to start however little it computes (Python, and its kernels' launches).
UTILISATION, LAYER_SECONDS = 0.4, 0.5e-3

#: Distillation's teacher: runs at each step, or its hidden states are read (mend.training.teacher).
Teacher = Literal["runs", "cached"]


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one query and what stands before it.

    demonstrations: that the LLM reads as they are; distilled: that the distiller reads; vectors: l
    times the groups, 0 without vectors. query: with its answer or all its options; predicted: how
    many of those have logits.
    """

    demonstrations: float
    distilled: float
    vectors: int
    query: float
    predicted: float


@dataclass(frozen=True)
class Work:
    """Floating-point operations in the LLM's type and in float32, and layers waited for."""

    llm: float = 0.0
    distiller: float = 0.0
    layers: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Add up."""
        return Work(
            self.llm + other.llm, self.distiller + other.distiller, self.layers + other.layers
        )

    def __mul__(self, times: float) -> Work:
        """Do it so many times."""
        return Work(self.llm * times, self.distiller * times, self.layers * times)

    @property
    def flops(self) -> float:
        """All operations."""
        return self.llm + self.distiller

    @property
    def launch_seconds(self) -> float:
        """How long it takes to start the layers, however little they compute."""
        return self.layers * LAYER_SECONDS

    def seconds(self, device: str, dtype: str) -> float:
        """Return how long it takes: computing, or starting layers, whichever is longer."""
        half, single, _ = DEVICES[device]
        peak = single if dtype == "float32" else half
        computing = (self.llm / peak + self.distiller / single) / (UTILISATION * 1e12)
        return max(computing, self.launch_seconds)


@dataclass(frozen=True)
class QueryCosts:
    """What one query costs a method.

    distiller: None if the vectors themselves are trained, or there are none; dtype: of the LLM.
    """

    llm: Architecture
    distiller: Architecture | None
    tokens: TokenCounts
    dtype: str = "float32"

    def teacher_work(self, micro_batch_size: int) -> Work:
        """Return the work of the teacher's hidden states."""
        tokens = self.tokens
        states = self.llm.prefill(tokens.demonstrations)
        states += self.llm.extend(tokens.demonstrations, tokens.query, predicted=0)
        return Work(states.forward, layers=self.llm.serial_layers / micro_batch_size)

    def training_work(self, micro_batch_size: int, teacher: Teacher | None) -> Work:
        """Return the work of a training step for it; teacher: None if the losses have none."""
        tokens = self.tokens
        student = self.llm.prefill(tokens.vectors)
        student += self.llm.extend(tokens.vectors, tokens.query, tokens.predicted)
        layers = 2.5 * self.llm.serial_layers / micro_batch_size
        work = Work(student.forward + student.backward, layers=layers)
        if teacher == "runs":
            work += self.teacher_work(micro_batch_size)
        if teacher:
            work += Work(self.llm.extend(0, 0, tokens.predicted).head)
        if self.distiller is not None:
            distilling = self.distillation()
            layers = 2.5 * self.distiller.layers / micro_batch_size
            work += Work(0.0, distilling.forward + distilling.trained_backward, layers)
        return work

    def distillation(self) -> Operations:
        """Return what distilling costs, the projection to the LLM's width included."""
        distiller, tokens = self.distiller, self.tokens
        if distiller is None:
            return Operations()
        operations = distiller.prefill(tokens.distilled + tokens.vectors)
        if distiller.width != self.llm.width:
            operations += Operations(2 * tokens.vectors * distiller.width * self.llm.width)
        return operations

    def scoring_work(self, contexts: float, items: float) -> Work:
        """Return the work of scoring so many items that share so many contexts."""
        tokens = self.tokens
        prefilled = self.llm.prefill(self._context).forward * contexts
        extended = self.llm.extend(self._context, tokens.query, tokens.predicted, items / contexts)
        at_once = AT_ONCE if self.llm.decoder_layers else AT_ONCE_ON_GPU
        layers = self.llm.serial_layers * (contexts / at_once[0] + items / at_once[1])
        distilled = self.distillation().forward * contexts
        return Work(prefilled + extended.forward * items, distilled, layers)

    @property
    def trained_parameters(self) -> int:
        """How many numbers the method trains, if l is that of `tokens`."""
        vectors = self.tokens.vectors
        if self.distiller is None or not vectors:
            return vectors * self.llm.width
        width = self.distiller.width
        projection = 0 if width == self.llm.width else width * self.llm.width
        return self.distiller.encoder_parameters + vectors * width + projection

    def training_bytes(
        self, micro_batch_size: int, keeps_best: bool, teacher: Teacher | None = None
    ) -> float:
        """Return an estimate of the memory that training takes.

        The LLM's weights; of what is trained the float32 weights, gradients and two moments, and
        the best weights so far; what is kept for the backward pass; and meanwhile, of a teacher
        that runs, its keys and values.
        """
        llm, distiller, tokens = self.llm, self.distiller, self.tokens
        size = activation_bytes(self.dtype)
        each = ACTIVATIONS * llm.width * llm.layers * (tokens.vectors + tokens.query) * size
        if distiller is not None:
            read = tokens.distilled + tokens.vectors
            each += ACTIVATIONS * distiller.width * distiller.layers * read * BYTES["float32"]
        if teacher == "runs":
            each += llm.cache_bytes(tokens.demonstrations, tokens.query, size)
        each += LOGITS * tokens.predicted * llm.vocabulary * BYTES["float32"]
        trained = self.trained_parameters * (20 if keeps_best else 16)
        return self._process_bytes(trained + micro_batch_size * each)

    def prediction_bytes(self, items: float, options: float) -> float:
        """Return an estimate of the memory that prediction takes: weights, and keys and values.

        Those of the contexts read at once are there; in an encoder-decoder, also a copy for each of
        the items read at once, and of each of their options.
        items: for each context.
        """
        rows = AT_ONCE_ON_GPU[0]
        if self.llm.decoder_layers:
            contexts, most = AT_ONCE
            rows = contexts + min(most, contexts * items) * (1 + options)
        size = activation_bytes(self.dtype)
        cached = rows * self.llm.cache_bytes(self._context, self.tokens.query, size)
        return self._process_bytes(self.trained_parameters * BYTES["float32"] + cached)

    @property
    def _context(self) -> float:
        return self.tokens.vectors or self.tokens.demonstrations

    def _process_bytes(self, tensors: float) -> float:
        weights = self.llm.parameters * BYTES[self.dtype]
        return RESERVED + FRAGMENTED * (weights + tensors)


def activation_bytes(dtype: str) -> int:
    """Return the size of one number that an LLM computes: 8-bit weights compute in 16 bits."""
    return max(2, BYTES[dtype])
