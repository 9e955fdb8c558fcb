"""Timing several ways of computing the same, in turn, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models import device, peak, wait

from mend.analysis.profiling import measure_memory

#: Seconds after which a way that is not ours is run no more.
PATIENCE = 10.0
#: What is printed where the ways agree by a test and not here.
TESTED = "compared by a test"


@dataclass
class Row:
    """A row of the table.

    seconds: medians, by way. ratios: of each other way's seconds to ours, medians over runs that
    followed each other. operations: those that are needed. memory: peaks in bytes, by way.
    difference: the largest between two ways' results. bars: by column, what must be reached.
    """

    part: str
    seconds: dict[str, float]
    ratios: dict[str, float]
    operations: float | None
    memory: dict[str, float]
    difference: float | None
    tolerance: float
    bars: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether results differ by more than the tolerance, or by what is no number."""
        return self.difference is not None and not self.difference <= self.tolerance


def compare(
    part: str,
    ours: Callable[[], Any],
    others: Mapping[str, Callable[[], Any]],
    same: Callable[[Any, Any], float] | None,
    tolerance: float = 0.0,
    operations: float | None = None,
    memory: Mapping[str, Callable[[], Any]] | None = None,
    bars: Mapping[str, float] | None = None,
    repeats: int = 3,
    calls: int = 1,
) -> Row:
    """Run all ways `repeats` times in turn, check that they agree, and print a row of the table.

    Each goes first as often as the others, so that a machine that grows faster or slower favours
    none. others: by name, "authors" or "plain"; slow ones are run less often.
    same: the largest difference between two results, which must be at most `tolerance`; None
    where a test compares them. memory: what is run for the peaks, by way, of equal micro-batches.
    calls: how many runs are timed together, a GPU being waited for after the last.
    """
    ways = {"ours": ours, **others}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {name: way() for name, way in ways.items() if name != "authors"}  # these allocate
    for repeat in range(repeats):
        names = list(ways)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            if name != "ours" and sum(seconds[name]) * calls > PATIENCE:
                continue
            wait()
            began = time.perf_counter()
            for _ in range(calls):
                results[name] = ways[name]()
            wait()
            seconds[name].append((time.perf_counter() - began) / calls)
    difference = max(same(results["ours"], results[name]) for name in others) if same else None
    row = Row(
        part,
        {name: statistics.median(found) for name, found in seconds.items()},
        {name: _ratio(seconds[name], seconds["ours"]) for name in others},
        operations,
        {name: peak_memory(way) for name, way in (memory or {}).items()},
        difference,
        tolerance,
        bars or {},
    )
    print(line(row), flush=True)
    return row


def _ratio(others: list[float], ours: list[float]) -> float:
    return statistics.median(other / own for other, own in zip(others, ours, strict=False))


def peak_memory(way: Callable[[], Any]) -> int:
    """Return the peak of bytes above what there was before: weights, and what is made once."""
    way()

    def run():
        way()
        yield "way"

    return measure_memory(run, device())["way"]


COLUMNS = (
    "part",
    "ours",
    "authors' way",
    "plain way",
    "authors / ours",
    "plain / ours",
    "floor",
    "ours / floor",
    "utilisation",
    "memory, ours",
    "memory, plain",
    "ours / plain",
    "largest difference",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def line(row: Row) -> str:
    """Return a row of the Markdown table, with the bars of its cells and whether they are met."""
    ours, memory = row.seconds["ours"], row.memory
    floor = row.operations / peak() if row.operations else None

    def cell(
        value: float | None, form: str, bar: str | None = None, scale: float = 1, most: bool = False
    ) -> str:
        if value is None:
            return ""
        text = form.format(value * scale)
        if bar not in row.bars:
            return text
        limit = row.bars[bar]
        met = value <= limit if most else value >= limit
        text += f" (at {'most' if most else 'least'} {form.format(limit * scale)})"
        return text if met else f"{text} **missed**"

    share = memory["ours"] / memory["plain"] if memory else None
    found = TESTED if row.difference is None else f"{row.difference:.1e}"
    cells = [
        row.part,
        cell(ours, "{:.1f} ms", "ours", 1e3, most=True),
        cell(row.seconds.get("authors"), "{:.1f} ms", scale=1e3),
        cell(row.seconds.get("plain"), "{:.1f} ms", scale=1e3),
        cell(row.ratios.get("authors"), "{:.2f} x", "authors"),
        cell(row.ratios.get("plain"), "{:.2f} x", "plain"),
        cell(floor, "{:.1f} ms", scale=1e3),
        cell(ours / floor if floor else None, "{:.1f}", "floor", most=True),
        cell(floor / ours if floor else None, "{:.0f} %", "utilisation", 100),
        cell(memory.get("ours"), "{:.0f} MiB", scale=2**-20),
        cell(memory.get("plain"), "{:.0f} MiB", scale=2**-20),
        cell(share, "{:.2f} x", "memory", most=True),
        f"{found} **too large**" if row.failed else found,
    ]
    return f"| {' | '.join(cells)} |"


def show(parts: Iterable[Callable[[], Row | str]]) -> int:
    """Run parts, which print themselves; return 1 if the ways of some part differ, else 0."""
    print(HEADER)
    found = [run() for run in parts]
    return int(any(isinstance(row, Row) and row.failed for row in found))
