"""How fast a GPU computes: what its maker says, and what was measured, here or elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal


@dataclass(frozen=True)
class Device:
    """Dense peaks in 10^12 operations a second, and memory in 10^9 bytes, from data sheets.

    half: in bfloat16 and float16; tf32: in float32 rounded to TF32; single: in float32.
    """

    half: float
    tf32: float
    single: float
    memory: float


DEVICES: Mapping[str, Device] = {
    "a10": Device(125, 62.5, 31.2, 24),
    "a100": Device(312, 156, 19.5, 80),
    "h100": Device(989, 494, 67, 80),
    "h200": Device(989, 494, 67, 141),
    "l4": Device(121, 60, 30.3, 24),
    "l40s": Device(362, 183, 91.6, 48),
    "rtx4090": Device(165, 82.6, 82.6, 24),
}
#: Assumed of every device: the share of a data sheet's peak that is reached. Measured of a plain
#: step, compiled, at GPT-2 large's shape in bfloat16 with a batch of 8, on an H200: 346 TFLOP/s.
UTILISATION = 346 / 989
MEASURED = (
    "what a plain compiled training step at GPT-2 large's shape, bfloat16 and batch 8, reached on "
    "an H200 (346 TFLOP/s, 43% of the 798 of large matrix products there; 47% with a batch of 32)"
)
#: Assumed: the seconds that one layer takes to start however little it computes (Python, and its
#: kernels' launches), and where it is compiled. So long took such a step at the shape of a Llama of
#: 30 narrow layers.
LAYER_SECONDS, COMPILED_LAYER_SECONDS = 0.6e-3, 0.25e-3

#: Of matrix products: 16 bits, float32 rounded to TF32, or float32.
Precision = Literal["half", "tf32", "single"]
#: What a training's record calls them (`peak_precision`).
PRECISIONS: Mapping[str, Precision] = {
    "bfloat16": "half",
    "float16": "half",
    "tf32": "tf32",
    "float32": "single",
}


@dataclass(frozen=True)
class Measured:
    """What trainings reached: how many, operations a second, and these as a share of the peak."""

    trainings: int
    rate: float
    utilisation: float


@dataclass(frozen=True)
class Speed:
    """How fast a device is taken to be; measured: by precision, where trainings told."""

    device: Device
    measured: Mapping[Precision, Measured] = field(default_factory=dict)

    def rate(self, precision: Precision) -> float:
        """Return the operations a second of products in a precision."""
        if precision in self.measured:
            return self.measured[precision].rate
        return UTILISATION * 1e12 * getattr(self.device, precision)


def find_speed(name: str, results: str | Path) -> Speed:
    """Return a device's speed, from the records of trainings on it in a results folder if any."""
    found: dict[Precision, list[tuple[float, float]]] = {}
    for record in _records(Path(results)):
        precision = PRECISIONS.get(record.get("peak_precision"))
        if precision and record.get("utilisation") and _is_called(name, str(record.get("device"))):
            rate = record["flops"] / record["step_seconds"] / (record.get("processes") or 1)
            found.setdefault(precision, []).append((rate, record["utilisation"]))
    measured = {
        precision: Measured(len(pairs), *map(median, zip(*pairs, strict=True)))
        for precision, pairs in found.items()
    }
    return Speed(DEVICES[name], measured)


def _records(results: Path) -> Iterator[Mapping]:
    """Yield the records of trainings; a file that is none is nobody's business here."""
    for file in sorted(results.glob("runs/**/record.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            yield record


def _is_called(name: str, device: str) -> bool:
    """Return whether a device that says its full name, as "NVIDIA L4", is the one of this name."""
    full = device.lower().replace("rtx ", "rtx")
    return re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", full) is not None
