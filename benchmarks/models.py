"""Random models of GPT-2's shape: benchmarks measure work, which does not depend on weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from mend.configuration.specs.reading import LongestContext, ReadingSettings, Separators
from mend.configuration.specs.run import LLMSource, MethodSource, RunSpec
from mend.methods.built import BuiltMethod, build_method
from mend.methods.mend import Mend
from mend.models.distiller import Distiller
from mend.models.frozen_llm import FrozenLLM
from mend.models.loading import frozen_llm

VOCABULARY = 50257

# About a tenth of GPT-2 large's 774 million parameters, and a distiller in proportion.
CPU_SIZES = {"llm": (768, 6, 12), "distiller": (384, 2, 6)}
GPU_SIZES = {"llm": (1280, 36, 20), "distiller": (768, 12, 12)}


def device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def configuration(part: str) -> GPT2Config:
    """Return the shape of "llm" or "distiller" for this device."""
    sizes = GPU_SIZES if device().type == "cuda" else CPU_SIZES
    width, layers, heads = sizes[part]
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def llm() -> FrozenLLM:
    """Return a random frozen LLM: bfloat16 on a GPU, float32 on a CPU."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(configuration("llm"))
    dtype = torch.bfloat16 if device().type == "cuda" else torch.float32
    return frozen_llm(model.to(device(), dtype), tokenizer=None)


def distiller(of: FrozenLLM, length: int) -> Distiller:
    """Return a random distiller of `length` vectors."""
    torch.manual_seed(1)
    return Distiller(GPT2Model(configuration("distiller")), length, of.width).to(device())


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


def mend(llm: FrozenLLM, distiller: Distiller) -> BuiltMethod:
    """Return MEND with a given distiller, the only part that is trained."""

    class WithDistiller(Mend):
        def trained(self, llm: FrozenLLM, run: RunSpec) -> dict[str, Distiller]:
            return {"distiller": distiller}

    method = WithDistiller(length=distiller.length)
    return BuiltMethod(method, llm, run_spec("mend", length=distiller.length))


@contextmanager
def without_kernels() -> Iterator[None]:
    """Build models without our kernels."""
    os.environ["MEND_KERNELS"] = "0"
    yield
    del os.environ["MEND_KERNELS"]


def random_tokens(length: int, generator: torch.Generator) -> list[int]:
    """Return random token ids."""
    return torch.randint(VOCABULARY, (length,), generator=generator).tolist()
