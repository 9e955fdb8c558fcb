"""Random models of published shapes: benchmarks measure work, which does not depend on weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
)

from mend.configuration.specs.reading import LongestContext, ReadingSettings, Separators
from mend.configuration.specs.run import LLMSource, MethodSource, RunSpec
from mend.methods.built import BuiltMethod, build_method
from mend.methods.mend import Mend
from mend.models.distiller import DistillerModel
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import frozen_llm
from mend.training.operations import measured_peak


def gpt2(width: int, layers: int, heads: int) -> PretrainedConfig:
    """Return a GPT-2 without dropout."""
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads}
    return GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def llama(layers: int) -> PretrainedConfig:
    """Return so many of SmolLM2-135M's layers."""
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


#: Of each shape the LLM, and the distiller's backbone.
SHAPES = {
    # About a tenth of GPT-2 large's 774 million parameters, and a distiller in proportion.
    "small": (gpt2(768, 6, 12), gpt2(384, 2, 6)),
    "GPT-2 large + small": (gpt2(1280, 36, 20), gpt2(768, 12, 12)),
    "SmolLM2-135M": (llama(30), llama(10)),
    # The pocket world's.
    "pocket": (gpt2(128, 4, 4), gpt2(96, 2, 4)),
    # GPT-2 large's and small's layers, with almost nothing to compute.
    "thin": (gpt2(64, 36, 1), gpt2(64, 12, 1)),
}


def device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_gpu() -> bool:
    """Return whether there is a GPU."""
    return device().type == "cuda"


def dtype() -> torch.dtype:
    """Return the type of the LLMs, and of the distillers' matrix products."""
    return torch.bfloat16 if on_gpu() else torch.float32


def paper_shape() -> str:
    """Return the paper's shape or, without a GPU, the small one."""
    return "GPT-2 large + small" if on_gpu() else "small"


@cache
def peak() -> float:
    """Return the operations a second of large matrix products in `dtype()`."""
    return measured_peak(device(), dtype())


def wait() -> None:
    """Wait until the GPU has nothing left to do."""
    if on_gpu():
        torch.cuda.synchronize()


def llm(shape: str, of: torch.dtype | None = None) -> FrozenLLM:
    """Return a random frozen LLM."""
    torch.manual_seed(0)
    with device():
        model = AutoModelForCausalLM.from_config(SHAPES[shape][0])
    return frozen_llm(model.to(of or dtype()), tokenizer=None)


def distiller(shape: str, of: FrozenLLM, length: int) -> DistillerModel:
    """Return a random distiller of `length` vectors, which multiplies in the LLM's type."""
    torch.manual_seed(1)
    with device():
        backbone = AutoModel.from_config(SHAPES[shape][1])
    return DistillerModel(backbone, length, of.width, precision=of.dtype).to(device())


READING = ReadingSettings(
    longest_context=LongestContext(llm=900, distiller=900),
    separators=Separators(input_output=" ", demonstrations=" "),
    demonstration_overflow="omit",
    example_truncation="input-and-output",
    longest_example=256,
)


def run_spec(name: str, **settings) -> RunSpec:
    """Return what a job is told of a method, with an LLM that is nowhere."""
    source = MethodSource(name=name, settings=settings)
    return RunSpec(llm=LLMSource(name="random", path="random"), method=source, reading=READING)


def vanilla_icl(llm: FrozenLLM) -> BuiltMethod:
    """Return vanilla ICL."""
    return build_method(llm, run_spec("vanilla-icl"))


def mend(llm: FrozenLLM, distiller: DistillerModel) -> BuiltMethod:
    """Return MEND with a given distiller, the only part that is trained."""

    class WithDistiller(Mend):
        def trained(self, llm: FrozenLLM, run: RunSpec) -> dict[str, DistillerModel]:
            return {"distiller": distiller}

    method = WithDistiller(length=distiller.length)
    return BuiltMethod(method, llm, run_spec("mend", length=distiller.length))


def pair(shape: str, length: int, of: torch.dtype | None = None) -> tuple[FrozenLLM, BuiltMethod]:
    """Return an LLM and MEND, of the same weights at each call."""
    model = llm(shape, of)
    return model, mend(model, distiller(shape, model, length))


@contextmanager
def without_kernels() -> Iterator[None]:
    """Build models without our kernels."""
    os.environ["MEND_KERNELS"] = "0"
    yield
    del os.environ["MEND_KERNELS"]


def random_tokens(length: int, generator: torch.Generator) -> list[int]:
    """Return random token ids that every shape knows."""
    return torch.randint(49152, (length,), generator=generator).tolist()
