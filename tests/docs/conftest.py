"""A clone of the repository in which the pages' code and the examples run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from helpers.workflow import PARTS

ROOT = Path(__file__).parents[2]
RUN = "results/runs/pocket-gpt2/mend/default/class_to_class/finetune"


def _clone(folder: Path) -> Path:
    for part in (*PARTS, "docs"):
        (folder / part).symlink_to(ROOT / part)
    return folder


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    """A folder with the repository's files and nothing that was made of them."""
    return _clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="session")
def used_clone(tmp_path_factory) -> Path:
    """A clone with the pocket world's rows and a distiller.

    The distiller is as it is before any training, where the workflow leaves a trained one.
    """
    from mend.configuration.specs.reading import LongestContext
    from mend.configuration.specs.run import DistillerSource, MethodSource, RunSpec
    from mend.library.llms import load_llm
    from mend.library.methods import Distiller, default_reading
    from mend.methods.built import build_method
    from mend.pocket.world import write_world

    folder = _clone(tmp_path_factory.mktemp("used-clone"))
    with contextlib.chdir(folder):
        write_world("results/data/benchmark", documents=1, pool=128)
        llm = load_llm("mend/pocket/models/gpt2")
        longest = LongestContext(llm=112, distiller=112)
        reading = default_reading(llm).model_copy(update={"longest_context": longest})
        run = RunSpec(
            llm=llm.source,
            method=MethodSource(name="mend", settings={"length": 16}),
            distiller=DistillerSource(
                path="mend/pocket/models/gpt2-small",
                projection="linear-tanh",
                placeholder_position="after-demonstrations",
                placeholder_initialisation="vocabulary",
                vector_base="last-tokens",
            ),
            reading=reading,
        )
        Distiller(build_method(llm, run)).save_pretrained(RUN)
    return folder
