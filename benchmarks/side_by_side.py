"""Timing two ways of computing the same, alternately, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def compare(
    part: str,
    ours: Callable[[], Any],
    obvious: Callable[[], Any],
    same: Callable[[Any, Any], float],
    tolerance: float,
    goal: float,
    repeats: int = 3,
) -> dict[str, Any]:
    """Run both `repeats` times in turn, check that they agree, and print a row of the table.

    same: the largest difference between the two results, which must be at most `tolerance`.
    goal: the ratio of the obvious way's time to ours that is asked for.
    Returns part, ours and obvious (median seconds), ratio, goal and difference.
    """
    seconds: dict[str, list[float]] = {"ours": [], "obvious": []}
    results = {}
    ours()  # the first call allocates
    for _ in range(repeats):
        for name, run in (("ours", ours), ("obvious", obvious)):
            began = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - began)
    difference = same(results["ours"], results["obvious"])
    if not difference <= tolerance:
        raise SystemExit(f"{part}: the two ways differ by {difference:g}, more than {tolerance:g}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["obvious"] / medians["ours"]
    row = {"part": part, **medians, "ratio": ratio, "goal": goal, "difference": difference}
    print(line(row), flush=True)
    return row


HEADER = (
    "| part | obvious way | ours | ratio | goal | largest difference |\n|---|---|---|---|---|---|"
)


def line(row: dict[str, Any]) -> str:
    """Return a row of the Markdown table."""
    return (
        f"| {row['part']} | {row['obvious']:.3f} s | {row['ours']:.3f} s | {row['ratio']:.1f} x "
        f"| {row['goal']:g} x | {row['difference']:.1e} |"
    )
