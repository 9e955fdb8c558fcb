"""Saved methods for tests of what uses them: folders that `from_pretrained` reads."""

from __future__ import annotations

from pathlib import Path

import torch

from mend.configuration.specs.run import DistillerSource, MethodSource, RunSpec
from mend.library.llms import load_llm
from mend.library.methods import ContextMethod, default_reading
from mend.methods.built import build_method

POCKET = Path(__file__).parents[2] / "mend/pocket/models"


def saved_distiller(folder: Path, length: int = 6) -> Path:
    """Write MEND of a distiller that was not trained, for the pocket GPT-2, and return where."""
    torch.manual_seed(0)
    llm = load_llm(POCKET / "gpt2")
    distiller = DistillerSource(
        path=str(POCKET / "gpt2-tiny"),
        projection="linear-tanh",
        placeholder_position="after-demonstrations",
        placeholder_initialisation="vocabulary",
        vector_base="last-tokens",
    )
    method = MethodSource(name="mend", settings={"length": length})
    run = RunSpec(llm=llm.source, method=method, distiller=distiller, reading=default_reading(llm))
    ContextMethod(build_method(llm, run)).save_pretrained(folder)
    return folder
