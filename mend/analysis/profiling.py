"""What prefilling a context and one query costs: operations, memory and time, part by part.

The parts are `distillation` (making the context: free unless the method has a distiller), `context`
(the LLM reads it) and `query` (the LLM goes on with a query and its right answer, whose tokens are
the only ones with logits, as in `mend.evaluation.scoring`). Operations and memory can also be
counted without a model's weights, from its configuration alone.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from mend.configuration.specs.run import DistillerSource
from mend.models.contexts import Changes, Contexts
from mend.models.distiller import DistillerModel, distilling_part
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.loading import frozen_llm

PARTS = ("distillation", "context", "query")

#: Turns sequences of demonstration tokens into contexts: a method's `contexts` for one LLM.
MakeContexts = Callable[[Sequence[Sequence[int]]], Contexts]
#: One run of `one_query`, with all its arguments.
Run = Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Lengths:
    """How many tokens are read.

    demonstrations: by the LLM (vanilla ICL); distilled: the same ones as the distiller reads them,
    which may have another longest context.
    """

    demonstrations: int
    distilled: int
    query: int
    answer: int


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors made while it is on, as long as they live.

    Works on every device and for tensors without data. What an operation allocates for itself and
    frees before it returns is not seen; what existed before (weights) is not counted.
    """

    def __init__(self) -> None:
        """Start with nothing made."""
        super().__init__()
        self.live = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation and count the storages that it made."""
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            key = storage._cdata
            if key not in given and key not in self._counted:
                self._counted.add(key)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _forget(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.live -= size


def _storages(values) -> list[torch.UntypedStorage]:
    tensors = (value for value in tree_leaves(values) if isinstance(value, torch.Tensor))
    return [tensor.untyped_storage() for tensor in tensors]


@torch.no_grad()
def one_query(
    llm: FrozenLLM, contexts: MakeContexts, tokens: int, lengths: Lengths
) -> Iterator[str]:
    """Read one context of `tokens` demonstration tokens and one query with its right answer.

    Yields the name of each part when it is done. Costs do not depend on which tokens are read.
    """
    context = contexts([[0] * tokens])
    yield "distillation"
    asked = Rows([0], [[0] * lengths.query], [[0] * lengths.answer])
    if isinstance(context, Changes):  # nothing of it can be computed before the query
        yield "context"
        states = llm.states(context, asked)
    else:
        prefilled = llm.prefill(context)
        yield "context"
        states = llm.states_after(prefilled, asked)
    llm.logits(states).log_softmax(-1)
    yield "query"


def count_flops(run: Run) -> dict[str, int]:
    """Return the forward floating-point operations of each part of `run`, as PyTorch counts them.

    Matrix products, two for each multiplication and addition. The models must have eager attention,
    which alone is counted on every device; it has the products that a causal mask then hides.
    """
    counts: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter:
        for part in run():
            counts[part] = counter.get_total_flops() - sum(counts.values())
    return counts


def measure_memory(run: Run, device: torch.device) -> dict[str, int]:
    """Return each part's peak memory in bytes above what there was before `run`, the weights.

    On CUDA it is the allocator's peak; elsewhere that of living tensors (`LiveMemory`).
    """
    peaks = {}
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        for part in run():
            peaks[part] = torch.cuda.max_memory_allocated(device) - before
            torch.cuda.reset_peak_memory_stats(device)
        return peaks
    with LiveMemory() as memory:
        for part in run():
            peaks[part] = memory.peak
            memory.peak = memory.live
    return peaks


def measure_seconds(run: Run, device: torch.device) -> dict[str, float]:
    """Return the seconds that each part of `run` takes, once."""
    seconds = {}
    start = _now(device)
    for part in run():
        end = _now(device)
        seconds[part] = end - start
        start = end
    return seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forward_flops(config: PretrainedConfig, lengths: Lengths, **method) -> dict[str, int]:
    """Return each part's forward operations from configurations alone; see `fake_models`."""
    with fake_models(config, lengths, **method) as run:
        return count_flops(run)


@contextmanager
def fake_models(
    config: PretrainedConfig,
    lengths: Lengths,
    vectors: int | None = None,
    distiller: PretrainedConfig | None = None,
    distiller_source: DistillerSource | None = None,
    padded_length: int | None = None,
    dtype: torch.dtype = torch.float32,
    query_in: str | None = None,
) -> Iterator[Run]:
    """Yield `one_query` with models whose tensors have shapes and no data.

    A model of any size is counted in seconds.
    vectors: l, for a context of that many vectors; None: of the demonstrations' tokens.
    distiller: the configuration of the model that makes the vectors (MEND); None: they are there
    (prompt tuning); distiller_source: how it is built; padded_length: see
    `mend.models.distiller.DistillerModel`.
    query_in: as of the LLM, see `mend.models.loading.frozen_llm`.
    """
    with FakeTensorMode(), torch.no_grad():
        llm = _fake_llm(config, dtype, query_in)
        contexts: MakeContexts = llm.token_context
        tokens = lengths.demonstrations
        if distiller is not None:
            made = _fake_distiller(distiller, distiller_source, vectors, llm.width, padded_length)
            contexts, tokens = (lambda ids: llm.vector_context(made(ids))), lengths.distilled
        elif vectors is not None:
            prompt = torch.zeros(1, vectors, llm.width)
            contexts, tokens = (lambda ids: llm.vector_context(prompt)), 0
        yield partial(one_query, llm, contexts, tokens, lengths)


def _fake_llm(config: PretrainedConfig, dtype: torch.dtype, query_in: str | None) -> FrozenLLM:
    model_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = model_class.from_config(config, attn_implementation="eager", dtype=dtype)
    return frozen_llm(model, tokenizer=None, query_in=query_in)


def _fake_distiller(
    config: PretrainedConfig,
    source: DistillerSource | None,
    length: int,
    llm_width: int,
    padded_length: int | None,
) -> DistillerModel:
    backbone = AutoModel.from_config(config, attn_implementation="eager")
    options, part, layers = {}, None, None
    if source:
        part, layers = source.part, source.layers
        options = {
            "projection": source.projection,
            "placeholder_position": source.placeholder_position,
        }
    distiller = DistillerModel(
        distilling_part(backbone, part, layers),
        length=length,
        llm_width=llm_width,
        padded_length=padded_length,
        **options,
    )
    # The counter follows modules, and stumbles on what could have a gradient and has none.
    return distiller.requires_grad_(False).eval()
