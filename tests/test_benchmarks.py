"""The benchmarks run, and what they compare agrees: tried with tiny models, in a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

TINY = """
import sys
import models, side_by_side
models.SHAPES["small"] = (models.gpt2(32, 2, 2), models.gpt2(32, 2, 2))
compare = side_by_side.compare
side_by_side.compare = lambda *given, **named: compare(*given, **named | {"repeats": 1})
import all, distillation, library, making, scoring
scoring.QUERIES = library.QUERIES = 2
library.SETS = 4
distillation.launches = lambda: "a note"
sys.argv = ["all.py", "--only", "scoring", "distillation", "library", "making"]
sys.exit(all.main())
"""


def test_all_ways_come_to_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TINY], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.split("| part |")[-1].splitlines()
    parts = [line.split()[1] for line in table[2:] if line.startswith("|")]
    expected = ["scoring,"] * 3 + ["distillation"] * 2 + ["distill,"] * 2 + ["score,"] * 2
    expected += ["SnapKV,", "cartridges,"]
    assert parts == expected
