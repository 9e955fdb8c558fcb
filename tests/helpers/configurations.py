"""A configuration for tests, and a way to change it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def default_values(folder: Path) -> dict:
    """Return the default configuration of table 2 with GPT-2.

    The models in `folder` are only a config.json.
    """
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    for part in ("figures", "efficiency", "attention"):
        values.pop(part)
    for key in ("pool", "dense_retrieval"):
        values["benchmark"].pop(key)
    table2 = {**values["studies"]["table2"], "llms": ["pocket-gpt2"]}
    table2["partitions"] = values["benchmark"]["partitions"]
    del table2["vary"]
    values["studies"] = {"table2": table2}
    values["llms"] = {"pocket-gpt2": values["llms"]["pocket-gpt2"]}
    values["results"] = str(folder / "results")
    values["protocol"]["longest_context"] = {"llm": 100, "distiller": 100}
    for name in ("gpt2", "gpt2-small"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"n_positions": 128}))
    llm = values["llms"]["pocket-gpt2"]
    llm["path"], llm["distiller"]["path"] = str(folder / "gpt2"), str(folder / "gpt2-small")
    return values


def put(values: dict, key: str, value) -> dict:
    """Return a copy with the value at a key such as a/b/c; None removes the key."""
    values = copy.deepcopy(values)
    *parents, last = key.split("/")
    place = values
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return values
