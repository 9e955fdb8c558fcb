"""What training and prediction cost, in closed form: operations, memory, and how long they take.

For one query, with P the parameters of a model's layers and n the tokens that it reads:

    teacher       2 P n of the LLM, n = demonstrations and query        (once for all runs, if kept)
    student       2 P n of the LLM, n = vectors and query, and as much again backward: the LLM is
                  frozen, and only what leads to the vectors is asked for
    distiller     2 P n, n = demonstrations and vectors, and twice as much backward

and besides attention, 4 (layers) (width) (tokens) (tokens looked at), twice that backward, and the
output head where a token is predicted. Both are counted whole where a causal mask hides half. Of
this, what nobody reads is left out (`Architecture.read`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mend.planning.architectures import BYTES, Architecture, Operations

#: Of mend.evaluation.scoring: how much is read at once.
CONTEXT_BATCH_SIZE, ITEM_BATCH_SIZE = 64, 128
#: Numbers that training keeps for each token, layer and unit of width: inputs of normalisations,
#: matrices and activation functions (Korthikanti et al. 2022 count 17; GPT-2's GELU has some more).
KEPT = 34
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


@dataclass(frozen=True)
class Reading:
    """Tokens of one query and what stands before it.

    demonstrations: that the LLM reads as they are; distilled: that the distiller reads; vectors: l
    times the groups, 0 without vectors. tokens: of the query, those of its answer or of all its
    options included; predicted: how many of them have logits.
    """

    demonstrations: float
    distilled: float
    vectors: int
    tokens: float
    predicted: float


@dataclass(frozen=True)
class Work:
    """Floating-point operations in the LLM's type and in float32, and layers waited for."""

    llm: float = 0.0
    distiller: float = 0.0
    passes: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Add up."""
        return Work(
            self.llm + other.llm, self.distiller + other.distiller, self.passes + other.passes
        )

    def __mul__(self, times: float) -> Work:
        """Do it so many times."""
        return Work(self.llm * times, self.distiller * times, self.passes * times)

    @property
    def flops(self) -> float:
        """All operations."""
        return self.llm + self.distiller

    def seconds(self, device: str, dtype: str) -> float:
        """Return how long it takes: computing, or starting layers, whichever is longer."""
        half, single, _ = DEVICES[device]
        peak = single if dtype == "float32" else half
        computing = (self.llm / peak + self.distiller / single) / (UTILISATION * 1e12)
        return max(computing, self.passes * LAYER_SECONDS)


def teacher_work(llm: Architecture, reading: Reading, piece: int) -> Work:
    """Return the work of the teacher's states of one example with one query."""
    states = llm.read(reading.demonstrations)
    states += llm.answer(reading.demonstrations, reading.tokens, predicted=0)
    return Work(states.forward, passes=llm.passes / piece)


def training_work(
    llm: Architecture,
    distiller: Architecture | None,
    reading: Reading,
    piece: int,
    teacher: str | None,
) -> Work:
    """Return the work of one example with one query.

    distiller: None if the vectors themselves are trained; piece: examples that go through together
    (micro_batch_size); teacher: None if the losses have none, else whether it "runs", or its states
    are "kept" (`mend.training.teacher`).
    """
    student = llm.read(reading.vectors)
    student += llm.answer(reading.vectors, reading.tokens, reading.predicted)
    work = Work(student.forward + student.backward, passes=2.5 * llm.passes / piece)
    if teacher == "runs":
        work += teacher_work(llm, reading, piece)
    if teacher:
        work += Work(llm.answer(0, 0, reading.predicted).head)
    if distiller is not None:
        made = distillation(llm, distiller, reading)
        passes = 2.5 * distiller.layers / piece
        work += Work(0.0, made.forward + made.trained_backward, passes)
    return work


def distillation(llm: Architecture, distiller: Architecture, reading: Reading) -> Operations:
    """Return what distilling a context costs, the projection to the LLM's width included."""
    if distiller.decoder_layers:
        made = distiller.read(reading.distilled + reading.vectors)
    else:
        made = distiller.read(reading.distilled)
        made += distiller.answer(reading.distilled, reading.vectors, predicted=0)
    if distiller.width == llm.width:
        return made
    return made + Operations(2 * reading.vectors * distiller.width * llm.width)


def scoring_work(
    llm: Architecture,
    distiller: Architecture | None,
    reading: Reading,
    contexts: float,
    items: float,
) -> Work:
    """Return the work of scoring items that share so many contexts."""
    before = reading.vectors or reading.demonstrations
    read = llm.read(before).forward * contexts
    answered = llm.answer(before, reading.tokens, reading.predicted, items / contexts)
    passes = llm.passes * (contexts / CONTEXT_BATCH_SIZE + items / ITEM_BATCH_SIZE)
    made = distillation(llm, distiller, reading).forward * contexts if distiller else 0.0
    return Work(read + answered.forward * items, made, passes)


def method_parameters(
    llm: Architecture, distiller: Architecture | None, length: int | None
) -> float:
    """Return how many numbers a method trains."""
    if not length:
        return 0
    if distiller is None:
        return length * llm.width
    projection = 0 if distiller.width == llm.width else distiller.width * llm.width
    return distiller.encoder_parameters + length * distiller.width + projection


def training_bytes(
    llm: Architecture,
    distiller: Architecture | None,
    reading: Reading,
    piece: int,
    dtype: str,
    keeps_best: bool,
    teacher: str | None = None,
) -> float:
    """Return an estimate of the memory that training takes.

    The LLM's weights; of what is trained the float32 weights, gradients and two moments, and the
    best weights so far; what is kept for the backward pass; and meanwhile, of a teacher that
    "runs", its keys and values.
    """
    trained = method_parameters(llm, distiller, reading.vectors) * (20 if keeps_best else 16)
    tokens = piece * (reading.vectors + reading.tokens)
    kept = KEPT * llm.width * llm.layers * tokens * activation_bytes(dtype)
    if distiller is not None:
        read = piece * (reading.distilled + reading.vectors)
        kept += KEPT * distiller.width * distiller.layers * read * BYTES["float32"]
    if teacher == "runs":
        size = activation_bytes(dtype)
        kept += piece * llm.cache_bytes(reading.demonstrations, reading.tokens, size)
    logits = LOGITS * piece * reading.predicted * llm.vocabulary * BYTES["float32"]
    return _whole(weights_bytes(llm, dtype) + trained + kept + logits)


def prediction_bytes(
    llm: Architecture,
    distiller: Architecture | None,
    reading: Reading,
    dtype: str,
    items: float,
    options: float,
) -> float:
    """Return an estimate of the memory that prediction takes: weights, and keys and values.

    Those of the contexts read at once are there and, in a decoder-only LLM, a copy for the trees
    of items and options after them (`mend.models.kernels.tree_attention`); in an
    encoder-decoder, one for each of the items asked at once, and of each of their options.
    items: for each context.
    """
    before = reading.vectors or reading.demonstrations
    asked = min(ITEM_BATCH_SIZE, CONTEXT_BATCH_SIZE * items)
    rows = CONTEXT_BATCH_SIZE * 2
    if llm.decoder_layers:
        rows = CONTEXT_BATCH_SIZE + asked * (1 + options)
    trained = method_parameters(llm, distiller, reading.vectors) * BYTES["float32"]
    kept = rows * llm.cache_bytes(before, reading.tokens, activation_bytes(dtype))
    return _whole(weights_bytes(llm, dtype) + trained + kept)


def activation_bytes(dtype: str) -> int:
    """Return the size of one number that an LLM computes: 8-bit weights compute in 16 bits."""
    return max(2, BYTES[dtype])


def weights_bytes(llm: Architecture, dtype: str) -> float:
    """Return the size of a frozen LLM in memory."""
    return llm.parameters * BYTES[dtype]


def _whole(tensors: float) -> float:
    return RESERVED + FRAGMENTED * tensors
