"""Which lines a picture of a study's runs has, and where each begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from mend.configuration.specs.reporting import StudyRun, StudySpec
from mend.reporting.studies.names import point_text

Series = tuple[Sequence[float], Sequence[float]]
"""x, rising, and y."""


def lines_of(
    spec: StudySpec, llm: str, what: Callable[[StudyRun], Hashable]
) -> dict[str, dict[int, Hashable]]:
    """Return what is drawn of an LLM's runs: {name: {training seed: `what` of that run}}.

    Points for which it is the same are one line, and runs of which nothing is (None) are none. A
    line has its run's name, and the values of the other axes only where these tell lines apart.
    """
    points: dict[str, dict[str, dict[int, Hashable]]] = {}
    for run in spec.runs:
        if run.llm == llm and (found := what(run)) is not None:
            of_run = points.setdefault(str(run.values["run"]), {})
            of_run.setdefault(point_text(run.values), {})[run.training_seed] = found
    named: dict[str, dict[int, Hashable]] = {}
    for name, of_run in points.items():
        alike = all(found == next(iter(of_run.values())) for found in of_run.values())
        named |= {name: next(iter(of_run.values()))} if alike else of_run
    lines: dict[tuple, list[str]] = {}
    for name, found in named.items():
        lines.setdefault(tuple(sorted(found.items())), []).append(name)
    return {", ".join(names): dict(found) for found, names in lines.items()}


def mean_and_range(
    by_seed: Mapping[int, Sequence[Series]], parts: int | None = None
) -> dict[str, np.ndarray]:
    """Return x, mean, low and high of series: of each seed the mean, of seeds the mean and range.

    Where series have other x, they are joined by straight lines; all end where the first of them
    does. parts: as many points at most, each the mean of its share. Empty if nothing is common.
    """
    every = [series for of_seed in by_seed.values() for series in of_seed if len(series[0])]
    if not every:
        return dict.fromkeys(("x", "mean", "low", "high"), np.array([]))
    first, last = max(x[0] for x, _ in every), min(x[-1] for x, _ in every)
    places = np.unique(np.concatenate([x for x, _ in every]))
    places = places[(places >= first) & (places <= last)]
    seeds = np.array(
        [
            np.mean([np.interp(places, x, y) for x, y in of_seed if len(x)], axis=0)
            for of_seed in by_seed.values()
            if any(len(x) for x, _ in of_seed)
        ]
    )
    if parts and len(places) > parts:
        shares = np.array_split(np.arange(len(places)), parts)
        places = np.array([places[share].mean() for share in shares])
        seeds = np.stack([seeds[:, share].mean(axis=1) for share in shares], axis=1)
    return {
        "x": places,
        "mean": seeds.mean(axis=0),
        "low": seeds.min(axis=0),
        "high": seeds.max(axis=0),
    }
