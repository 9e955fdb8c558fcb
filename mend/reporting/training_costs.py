"""What the training runs of a table cost, added up from their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from mend.atomic_io import read_json
from mend.configuration.choices import STAGES
from mend.errors import UserError

Record = Mapping[str, Any]

KINDS = dict.fromkeys(["llm", "method", "stage", "variant", "partition", "device"], (str,))
KINDS |= dict.fromkeys(["steps", "examples", "parameters_trained", "peak_memory_bytes"], (int,))
KINDS |= dict.fromkeys(["seconds", "flops", "utilisation", "best_score"], (int, float))
KINDS |= {"seed": (int,), "best_step": (int,), "versions": (dict,), "cuts": (dict,)}
KINDS |= {"made_of": (dict,), "candidates": (list,)}
"""What the values of a record are, as far as they are read; any may be missing."""


def read_record(path: str | Path) -> Record:
    """The record of a training run; raises UserError if it does not say whose it is."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path}: not the record of a training run")
    missing = [key for key in ("llm", "method", "stage") if not record.get(key)]
    if missing:
        raise UserError(f"{path}: the record of a training run lacks {', '.join(missing)}")
    for key, kinds in KINDS.items():
        value = record.get(key)
        if not (value is None or type(value) in kinds) or value != value:
            raise UserError(f"{path}: {key} of the record is {str(value)[:60]!r}; train again")
    counts = record.get("cuts") or {}
    if not all(
        isinstance(of_task, dict) and all(type(count) is int for count in of_task.values())
        for of_task in counts.values()
    ):
        raise UserError(f"{path}: cuts of the record are no counts; train again")
    return record


def training_costs(records: Sequence[Record], methods: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each LLM, method and stage, in the order of `methods`.

    Keys: llm, method, stage, runs, steps, examples, parameters ((least, most) of a run each),
    seconds (of all runs), seconds_per_run, flops_per_run, utilisation ((least, most): the share of
    their devices' measured peak that needed operations were), peak_memory_bytes (largest), devices,
    stopped_early (runs). None where no record says.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["llm"], record["method"], record["stage"]), []).append(record)
    llms = list(dict.fromkeys(llm for llm, _, _ in groups))

    def order(key: tuple[str, str, str]) -> tuple[int, int, int]:
        places = zip(key, (llms, methods, STAGES), strict=True)
        return tuple(known.index(name) if name in known else len(known) for name, known in places)

    rows = []
    for key in sorted(groups, key=order):
        group = groups[key]
        seconds, flops = _values(group, "seconds"), _values(group, "flops")
        rows.append(
            {
                **dict(zip(("llm", "method", "stage"), key, strict=True)),
                "runs": len(group),
                "steps": _range(group, "steps"),
                "examples": _range(group, "examples"),
                "parameters": _range(group, "parameters_trained"),
                "seconds": sum(seconds) if seconds else None,
                "seconds_per_run": mean(seconds) if seconds else None,
                "flops_per_run": mean(flops) if flops else None,
                "utilisation": _range(group, "utilisation"),
                "peak_memory_bytes": max(_values(group, "peak_memory_bytes"), default=None),
                "devices": sorted({_device(record) for record in group} - {""}),
                "stopped_early": sum(bool(record.get("stopped_early")) for record in group),
            }
        )
    return rows


def same_steps(
    records: Sequence[Record], first: str = "mend", second: str = "hypertuning"
) -> bool | None:
    """Whether two methods took the same steps in each stage and partition; None if unknown."""
    steps: dict[str, Counter] = {first: Counter(), second: Counter()}
    for record in records:
        if record["method"] in steps and record.get("steps") is not None:
            place = (record["llm"], record["stage"], record.get("partition"), record["steps"])
            steps[record["method"]][place] += 1
    if not steps[first] or not steps[second]:
        return None
    return steps[first] == steps[second]


def versions(records: Sequence[Record]) -> dict[str, list[str]]:
    """Each package's versions over all runs; more than one means that a table mixes them."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in (record.get("versions") or {}).items():
            found.setdefault(name, set()).add(str(version))
    return {name: sorted(found[name]) for name in sorted(found)}


def commits(records: Sequence[Record]) -> list[str]:
    """The commits that the runs' code came from."""
    return sorted({str(record["commit"]) for record in records if record.get("commit")})


def _values(group: Sequence[Record], key: str) -> list:
    return [record[key] for record in group if record.get(key) is not None]


def _range(group: Sequence[Record], key: str) -> tuple | None:
    values = _values(group, key)
    return (min(values), max(values)) if values else None


def _device(record: Record) -> str:
    device, processor = record.get("device") or "", record.get("cpu") or ""
    return f"{device} ({processor})" if device == "cpu" and processor else str(device)
