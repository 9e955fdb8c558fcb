"""Rows in MetaICL's layout, for tests to write and to spoil."""

from __future__ import annotations

import json
from pathlib import Path

GOOD = {"task": "t", "input": "is it?", "output": "yes", "options": ["yes", "no"]}


def write_rows(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
