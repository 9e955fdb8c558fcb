"""What all tests need of the process that runs them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from helpers.jobs import write_data

# A shell ignores SIGINT for what it starts in the background, and that is inherited: without this
# line the jobs that tests start would never see the Ctrl-C that tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, also from the jobs that tests start: tests mean processors.

    There the same steps give the same bits, and as many processes as a test wants can start.
    Those marked `gpu` mean one: `pytest -m gpu` runs them alone.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Tasks, episodes and text, as the workflow's first rules leave them."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def shops(data: Path, tmp_path_factory) -> dict:
    """A workshop of each architecture, whose files a test damages."""
    from helpers.damage import ARCHITECTURES, Workshop

    folder = tmp_path_factory.mktemp("workshops")
    return {name: Workshop(data, folder / name, name) for name in ARCHITECTURES}
