"""Timing two ways of computing the same, in turn, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any


def compare(
    part: str,
    ours: Callable[[], Any],
    obvious: Callable[[], Any],
    same: Callable[[Any, Any], float] | None,
    tolerance: float = 0.0,
    goal: float = 1.0,
    repeats: int = 3,
    floor: float | None = None,
) -> dict[str, Any]:
    """Run both `repeats` times in turn, check that they agree, and print a row of the table.

    Each goes first as often as the other, so that a machine that grows faster or slower favours
    none. Other processes disturb the seconds; ratios are of runs that followed each other.
    same: the largest difference between the two results, which must be at most `tolerance`; None
    where a test compares them.
    goal: the ratio of the obvious way's time to ours that is asked for.
    floor: the seconds that ours would take if nothing but needed work were done at full speed.
    Returns part, ours and obvious (median seconds), ratio and processor_ratio (medians of the
    ratios of seconds and of processor time), goal, floor, difference, and failed: whether the two
    differ by more than the tolerance.
    """
    ways = {"ours": ours, "obvious": obvious}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    ours()  # the first call allocates
    for repeat in range(repeats):
        for name in sorted(ways, reverse=repeat % 2 == 0):
            began, processor_began = time.perf_counter(), time.process_time()
            results[name] = ways[name]()
            seconds[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - processor_began)
    difference = same(results["ours"], results["obvious"]) if same else None
    row = {
        "part": part,
        "ours": statistics.median(seconds["ours"]),
        "obvious": statistics.median(seconds["obvious"]),
        "ratio": _median_ratio(seconds),
        "processor_ratio": _median_ratio(processor),
        "goal": goal,
        "floor": floor,
        "difference": difference,
        # A difference that is not a number is none that is small.
        "failed": difference is not None and not difference <= tolerance,
    }
    print(line(row), flush=True)
    return row


def _median_ratio(seconds: dict[str, list[float]]) -> float:
    pairs = zip(seconds["obvious"], seconds["ours"], strict=True)
    return statistics.median(obvious / ours for obvious, ours in pairs)


HEADER = (
    "| part | obvious way | ours | ratio | goal | ratio of processor time | floor | ours / floor "
    "| largest difference |\n|---|---|---|---|---|---|---|---|---|"
)


def line(row: dict[str, Any]) -> str:
    """Return a row of the Markdown table."""
    floor = row.get("floor")
    cells = [
        row["part"],
        f"{row['obvious']:.3f} s",
        f"{row['ours']:.3f} s",
        f"{row['ratio']:.2f} x",
        f"{row['goal']:g} x",
        f"{row['processor_ratio']:.2f} x",
        f"{floor:.3f} s" if floor else "",
        f"{row['ours'] / floor:.1f}" if floor else "",
        "compared by a test" if row["difference"] is None else f"{row['difference']:.1e}",
    ]
    if row["failed"]:
        cells[-1] += " **too large**"
    return f"| {' | '.join(cells)} |"


def exit_status(rows: Iterable[dict[str, Any]]) -> int:
    """Return 1 if the two ways of some part differ, else 0."""
    return int(any(row["failed"] for row in rows))
