"""All benchmarks in one process; prints one Markdown table, and writes it with `--output FILE`."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import chunks
import distillation
import overhead
import scoring
import torch
import transformers
from models import device
from side_by_side import HEADER, line


def main() -> None:
    """Run them, the cheap ones first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    notes = overhead.run()
    rows = [*chunks.run()]
    found, more = distillation.run()
    rows += found
    notes += more
    rows += scoring.run()
    where = torch.cuda.get_device_name() if device().type == "cuda" else processor()
    text = "\n".join(
        [
            f"{where}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
            f"torch {torch.__version__}, transformers {transformers.__version__}",
            "",
            HEADER,
            *map(line, rows),
            "",
            *(f"- {note}" for note in notes),
        ]
    )
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


def processor() -> str:
    """Return the processor's name as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU ({names[0]})" if names else platform.machine()


if __name__ == "__main__":
    main()
