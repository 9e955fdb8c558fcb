"""All benchmarks in one process; prints one Markdown table, and writes it with `--output FILE`.

The exit status is 1 if the ways of some part differ, or a part could not be run: the others are in
the table all the same.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import traceback
from pathlib import Path

import tokenizers
import torch
import transformers
from models import dtype, on_gpu, peak
from side_by_side import HEADER, Row, line

MODULES = ("overhead", "chunks", "scoring", "distillation", "library", "making")


def main() -> int:
    """Run them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="a file for the table")
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, help="these alone")
    options = parser.parse_args()
    where = machine()
    print(f"{where}\n\n{HEADER}", flush=True)
    rows, notes, broken = [], [], []
    for name in options.only:
        for number, part in enumerate(importlib.import_module(name).parts(), start=1):
            try:
                found = part()
            except Exception as error:  # the other parts' minutes are not to be lost
                traceback.print_exc()
                kind = f"{type(error).__name__}: {error}".splitlines()[0]
                broken.append(f"**part {number} of {name} could not be run**: {kind}")
                continue
            (rows if isinstance(found, Row) else notes).append(found)
    notes = [*broken, *notes]
    table = [where, "", HEADER, *map(line, rows), "", *(f"- {note}" for note in notes)]
    print("\n".join(["", *table]))
    if options.output:
        options.output.write_text("\n".join(["# Benchmarks", "", *table, ""]), encoding="utf-8")
    return int(bool(broken) or any(row.failed for row in rows))


def machine() -> str:
    """Return what this is measured on and with."""
    name = torch.cuda.get_device_name() if on_gpu() else processor()
    kind = str(dtype()).removeprefix("torch.")
    best = f"{peak() / 1e12:,.2f} TFLOP/s in matrix products of {kind}"
    busy = f"{os.getloadavg()[0]:.1f} processes were waiting or running before"
    return (
        f"{name}, {torch.get_num_threads()} threads, {best}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"tokenizers {tokenizers.__version__}; {busy}"
    )


def processor() -> str:
    """Return the processor's name as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU ({names[0]})" if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
