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

from dataclasses import astuple, dataclass
from typing import Literal

from mend.planning.architectures import BYTES, Architecture, Operations
from mend.planning.devices import COMPILED_LAYER_SECONDS, LAYER_SECONDS, Speed

#: Of mend.evaluation.scoring: contexts and items read at once, by an encoder-decoder and by others.
AT_ONCE, AT_ONCE_ON_GPU = (64, 128), (128, 512)
#: Numbers that training keeps for each token, layer and unit of width: inputs of normalisations,
#: matrices and activation functions (Korthikanti et al. 2022 count 17; GPT-2's GELU has some more).
ACTIVATIONS = 34
#: How many logits exist together (of mend.training.losses), and the float32 copies of them that a
#: loss and its gradient hold.
LOGITS, COPIES = 2**26, 6
#: What a CUDA process takes before any tensor, and what the allocator cannot use again.
RESERVED, FRAGMENTED = 1.0e9, 1.1

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
    """Floating-point operations by precision, and the seconds that layers take to start."""

    half: float = 0.0
    tf32: float = 0.0
    single: float = 0.0
    launch_seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Add up."""
        return Work(*(own + more for own, more in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        """Do it so many times."""
        return Work(*(times * own for own in astuple(self)))

    @property
    def flops(self) -> float:
        """All operations."""
        return self.half + self.tf32 + self.single

    def seconds(self, speed: Speed) -> float:
        """Return how long it takes: computing, or starting layers, whichever is longer."""
        computing = sum(
            getattr(self, precision) / speed.rate(precision)
            for precision in ("half", "tf32", "single")
        )
        return max(computing, self.launch_seconds)


@dataclass(frozen=True)
class QueryCosts:
    """What one query costs a method.

    distiller: None if the vectors themselves are trained, or there are none; the LLM itself where
    its copy compresses. dtype: of the LLM; precision: of the distiller
    (`llms.*.distiller.precision`). lora_rank: of the adapters of such a copy.
    """

    llm: Architecture
    distiller: Architecture | None
    tokens: TokenCounts
    dtype: str = "float32"
    precision: str = "auto"
    lora_rank: int | None = None

    def teacher_work(self, micro_batch_size: float) -> Work:
        """Return the work of the teacher's hidden states, where they are kept."""
        return self._llm_work(self._teacher().forward, self.llm.serial_layers / micro_batch_size)

    def training_work(
        self,
        micro_batch_size: float,
        teacher: Teacher | None,
        queries: int = 1,
        compiled: bool = True,
    ) -> Work:
        """Return the work of a training step for an example of so many queries.

        teacher: None if the losses have none; compiled: whether the models' blocks are.
        """
        tokens, llm = self.tokens, self.llm
        student = llm.prefill(tokens.vectors)
        student += llm.extend(tokens.vectors, tokens.query, tokens.predicted)
        operations, layers = student.forward + student.backward, 2.5 * llm.serial_layers
        if teacher == "runs":
            operations += self._teacher().forward
            layers += llm.serial_layers
        if teacher:
            operations += llm.extend(0, 0, tokens.predicted).head
        distilling = self.distillation()
        if self.distiller is not None:
            layers += 2.5 * self.distiller.layers
        # Of a copy's frozen weights there are no gradients; its adapters are small.
        frozen = self.lora_rank is not None
        backward = distilling.backward if frozen else distilling.trained_backward
        trained = distilling.forward + backward
        seconds = layers * (COMPILED_LAYER_SECONDS if compiled else LAYER_SECONDS)
        work = Work(launch_seconds=seconds / micro_batch_size)
        work += self._llm_work(operations * queries, trains=True)
        return work + self._distiller_work(trained)

    def _teacher(self) -> Operations:
        tokens = self.tokens
        states = self.llm.prefill(tokens.demonstrations)
        return states + self.llm.extend(tokens.demonstrations, tokens.query, predicted=0)

    def _llm_work(self, operations: float, layers: float = 0.0, trains: bool = False) -> Work:
        """Return operations in the LLM's precision: float32 is rounded in training alone."""
        rounded = "tf32" if trains and self.precision == "auto" else "single"
        precision = rounded if self.dtype == "float32" else "half"
        return Work(**{precision: operations}, launch_seconds=layers * LAYER_SECONDS)

    def _distiller_work(self, operations: float) -> Work:
        """Return operations in the distiller's precision."""
        return Work(**{"half" if self.precision == "auto" else "single": operations})

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
        tokens, llm = self.tokens, self.llm
        prefilled = llm.prefill(self._context).forward * contexts
        extended = llm.extend(self._context, tokens.query, tokens.predicted, items / contexts)
        contexts_at_once, items_at_once = AT_ONCE if llm.decoder_layers else AT_ONCE_ON_GPU
        layers = llm.layers * contexts / contexts_at_once
        layers += (llm.decoder_layers or llm.layers) * items / items_at_once
        distilled = self.distillation().forward * contexts
        work = self._llm_work(prefilled + extended.forward * items, layers)
        return work + self._distiller_work(distilled)

    @property
    def trained_parameters(self) -> int:
        """How many numbers the method trains, if l is that of `tokens`."""
        vectors = self.tokens.vectors
        if self.distiller is None:
            return vectors * self.llm.width
        width = self.distiller.width
        if self.lora_rank is not None:
            return self.lora_rank * self.distiller.adapted + vectors * width
        projection = 0 if width == self.llm.width else width * self.llm.width
        return self.distiller.encoder_parameters + vectors * width + projection

    def training_bytes(self, micro_batch_size: int, queries: int, keeps_best: bool) -> float:
        """Return an estimate of the memory that training takes, with examples of so many queries.

        The LLM's weights; of what is trained the float32 weights, gradients and two moments, and
        the best weights so far; and what is kept for the backward pass, a distiller's as if it were
        all in float32.
        """
        llm, distiller, tokens = self.llm, self.distiller, self.tokens
        read = tokens.vectors + tokens.query
        each = ACTIVATIONS * llm.width * llm.layers * read * queries * activation_bytes(self.dtype)
        if distiller is not None:
            read = tokens.distilled + tokens.vectors
            each += ACTIVATIONS * distiller.width * distiller.layers * read * BYTES["float32"]
        logits = micro_batch_size * queries * tokens.predicted * llm.vocabulary
        logits = COPIES * min(logits, LOGITS) * BYTES["float32"]
        trained = self.trained_parameters * (20 if keeps_best else 16)
        return self._process_bytes(trained + micro_batch_size * each + logits)

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
