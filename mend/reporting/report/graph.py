"""The workflow's rules as a picture: boxes in layers, each below those whose results it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from markupsafe import Markup

from mend.reporting.pages import render

WIDTH, MARGIN = 380, 4
"""Of the drawing, in its own units; text of 10 units is readable on a phone, where it is scaled."""

BOX = (106, 32)
ABREAST = 3
"""Boxes of a layer at most; a rule that finds no room stands a layer lower."""
BEND = 10
"""Room beside boxes for a line that passes a layer."""

LAYER = 60
SWEEPS = 8

Place = tuple[float, float]
Item = str | tuple[str, str, int]
"""A rule, or the bend of a line (from, to, layer)."""


def draw_rules(rules: Sequence[Mapping[str, Any]]) -> Markup:
    """Inline SVG of [{rule, jobs, after, result}], each rule after those that it reads from.

    What follows from other arrows is left out. The last rule reads everything and stands below all
    of them, without arrows.
    """
    *inner, last = rules
    after = reduced({rule["rule"]: rule["after"] for rule in inner})
    layers, paths = _layers(after)
    places = _places(layers, paths)
    bottom = len(layers) * LAYER
    return render(
        "report_graph.html.j2",
        width=WIDTH,
        height=bottom + BOX[1] + 2 * MARGIN,
        size=BOX,
        boxes=[
            {**rule, "x": places[rule["rule"]][0], "y": places[rule["rule"]][1]} for rule in inner
        ],
        last={**last, "y": bottom + MARGIN, "x": MARGIN, "width": WIDTH - 2 * MARGIN},
        lines=[_line([places[item] for item in path]) for path in paths],
    )


def reduced(after: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Leave out what follows from the rest: if c is after b and b after a, that c is after a."""
    all_before: dict[str, set[str]] = {}
    for rule, sources in after.items():
        all_before[rule] = {*sources}.union(*(all_before[source] for source in sources))
    return {
        rule: [
            source
            for source in dict.fromkeys(sources)
            if not any(source in all_before[other] for other in sources)
        ]
        for rule, sources in after.items()
    }


def _layers(after: Mapping[str, Sequence[str]]) -> tuple[list[list[Item]], list[list[Item]]]:
    """Rules and bends of each layer, and the items that each line passes, ends included."""
    read = {source for sources in after.values() for source in sources}
    depth: dict[str, int] = {}
    # What nothing is waiting for gives way.
    for rule in sorted(after, key=lambda rule: rule not in read):
        depth[rule] = 1 + max((depth[source] for source in after[rule]), default=-1)
        while list(depth.values()).count(depth[rule]) > ABREAST:
            depth[rule] += 1
    layers: list[list[Item]] = [[] for _ in range(1 + max(depth.values(), default=0))]
    for rule, layer in depth.items():
        layers[layer].append(rule)
    paths = []
    for rule, sources in after.items():
        for source in sources:
            bends = [(source, rule, layer) for layer in range(depth[source] + 1, depth[rule])]
            for bend in bends:
                layers[bend[2]].append(bend)
            paths.append([source, *bends, rule])
    return layers, paths


def _places(layers: list[list[Item]], paths: Sequence[Sequence[Item]]) -> dict[Item, Place]:
    """Middle of each item's upper edge: neighbours' mean place decides the order (Sugiyama)."""
    neighbours: dict[Item, list[Item]] = {}
    for path in paths:
        for first, second in zip(path, path[1:], strict=False):
            neighbours.setdefault(first, []).append(second)
            neighbours.setdefault(second, []).append(first)
    x: dict[Item, float] = {}
    for layer in layers:
        x.update(_spread(layer))
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 else reversed(layers):
            wanted = {i: mean(x[n] for n in neighbours.get(i, [i])) for i in layer}
            layer.sort(key=wanted.__getitem__)
            x.update(_spread(layer))
    return {
        item: (x[item], number * LAYER + MARGIN)
        for number, layer in enumerate(layers)
        for item in layer
    }


def _spread(layer: Sequence[Item]) -> dict[Item, float]:
    """Middles of a layer's items, side by side in their order, with equal gaps."""
    sizes = [BOX[0] if isinstance(item, str) else BEND for item in layer]
    gap = (WIDTH - 2 * MARGIN - sum(sizes)) / (len(sizes) + 1)
    x, left = {}, MARGIN + gap
    for item, size in zip(layer, sizes, strict=True):
        x[item] = left + size / 2
        left += size + gap
    return x


def _line(places: Sequence[Place]) -> str:
    """A smooth SVG path from the lower edge of the first box, through bends, to the last's top."""
    (x, y), *rest = places
    y += BOX[1]
    text = f"M{x:.1f},{y:.1f}"
    for number, (to_x, to_y) in enumerate(rest, start=1):
        half = (y + to_y) / 2
        text += f" C{x:.1f},{half:.1f} {to_x:.1f},{half:.1f} {to_x:.1f},{to_y:.1f}"
        x, y = to_x, to_y
        if number < len(rest):
            y += BOX[1]
            text += f" L{x:.1f},{y:.1f}"
    return text
