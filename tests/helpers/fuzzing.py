"""What all tests share that make their input up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis


def fuzzed(examples: int) -> hypothesis.settings:
    """Return hypothesis settings: the same examples in every run; MEND_FUZZ=2000 makes so many."""
    return hypothesis.settings(
        max_examples=int(os.environ.get("MEND_FUZZ", examples)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail, with where it hung, if the block takes longer; for the main thread alone."""

    def hung(*_) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
