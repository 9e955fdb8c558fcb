"""The examples run, at toy size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "classification.py": (["--shots", "4", "40", "--sets", "2"], r"MEND +40 +48 +\d+\.\d%"),
    "routing.py": (["--queries", "5"], r"food-names +\d+% +\d+% +\d+% +\d+%"),
    "serving.py": (["--server", "sglang"], r"'take weepy': '.*', as the library writes"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, used_clone) -> None:
    arguments, printed = EXAMPLES[name]
    done = subprocess.run(
        [sys.executable, f"examples/{name}", *arguments],
        cwd=used_clone,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(printed, done.stdout), done.stdout


def test_every_example_is_listed_and_every_script_is_run() -> None:
    listed = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    for path in (ROOT / "examples").iterdir():
        assert path.name == "README.md" or f"`examples/{path.name}" in listed, path.name
