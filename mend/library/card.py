"""Model cards: what a saved method or context is, for whoever finds it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mend.atomic_io import check_file
from mend.configuration.methods import MethodSettings, make_method, method_class
from mend.configuration.settings import hub_name_problem
from mend.configuration.specs.saved import SavedContext, SavedMethod
from mend.errors import UserError

_SCORES = ("llm", "method", "partition", "mean", "ci_low", "ci_high")
_REPOSITORY = "mend-icl"
_WITHOUT_POSITIONS = {
    "low-rank": "low-rank weights",
    "additions": "additions to the state of a query's last token",
}


def method_card(saved: SavedMethod, training: Mapping[str, Any], licence: str | None) -> str:
    """Return the card of a trained method, Markdown with the hub's header.

    training: its training's record, empty if there is none.
    """
    method = make_method(saved.method)
    stands = "stand for demonstrations" if method.reads_demonstrations else "stand before a query"
    lines = [
        f"# {method.display_name} for {_cell(saved.llm.path)}",
        "",
        f"{_contexts_of(method)} that {stands}: the frozen LLM reads with them instead of text. "
        f"Made by MEND's code, {saved.made_with}.",
        "",
        *_facts(_of_method(saved, training)),
        "",
        "## Use",
        "",
        "```python",
        f"# pip install {_REPOSITORY}",
        "from mend import ContextMethod",
        "",
        'method = ContextMethod.from_pretrained("NAME-OF-THIS-REPOSITORY")',
        'context = method.distill([("great film", "positive"), ("dull", "negative")])',
        'method.score(context, ["I loved it"], ["positive", "negative"])',
        "```",
        "",
        "## Scores",
        "",
        *_scores(saved.scores, training),
    ]
    return _header(saved.llm.path, licence, "text-generation") + "\n".join(lines) + "\n"


def _contexts_of(method: MethodSettings) -> str:
    if method.kind in _WITHOUT_POSITIONS:
        return _WITHOUT_POSITIONS[method.kind].capitalize()
    return f"{method.context_length} {method.kind.replace('-', ' and ')}"


def context_card(saved: SavedContext) -> str:
    """Return the card of a context, Markdown with the hub's header."""
    facts = {
        "made by": saved.method,
        "what it is": _WITHOUT_POSITIONS.get(
            saved.content, f"{saved.positions} {saved.content.replace('-', ' and ')}"
        ),
        "LLM that reads it": _of_llm(saved),
        "demonstrations": "none" if saved.shots is None else f"{saved.shots}",
        "SHA-256 of the demonstrations": saved.demonstrations,
        "written by": saved.made_with,
    }
    use = [
        "```python",
        f"# pip install {_REPOSITORY}",
        "from mend import Context, ZeroShot",
        "",
        'context = Context.from_pretrained("THIS-FOLDER")',
        'ZeroShot(context.llm).generate(context, ["I loved it"], max_new_tokens=5)',
        "```",
    ]
    if kind := {"vectors": "a prompt", "low-rank": "an adapter"}.get(saved.content):
        use += ["", f"PEFT loads it as {kind} (`PeftModel.from_pretrained(model, FOLDER)`)."]
    lines = ["# A context", "", *_facts(facts), "", *use]
    return _header(saved.llm.path, None, None) + "\n".join(lines) + "\n"


def scores_of(
    table: str | Path, method: str, llm: str, partition: str | None
) -> list[dict[str, Any]]:
    """Return the rows of a study's table, CSV, that are of a method with an LLM.

    llm: as the table names it. partition: whose tasks it was finetuned for; None for all.
    Raises UserError if it is no such table, or has no such row.
    """
    import csv

    check_file(table, "table")
    with open(table, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _SCORES if name not in (reader.fieldnames or ())]:
            raise UserError(
                f"{table}: no column {missing[0]}; name a study's CSV, such as results/table2.csv"
            )
        names = {method, method_class(method).display_name}
        rows = [row for row in reader if row["method"] in names and row["llm"] == llm]
    rows = [row for row in rows if partition in (None, row["partition"])]
    if not rows:
        of = f" and {partition}" if partition else ""
        raise UserError(f"{table}: it has no row of {method} with {llm}{of}")
    try:
        return [
            {key: float(row[key]) if key in _SCORES[3:] else row[key] for key in _SCORES}
            for row in rows
        ]
    except ValueError as error:
        raise UserError(f"{table}: {error}") from None


def _header(llm: str, licence: str | None, task: str | None) -> str:
    header: dict[str, Any] = {"library_name": "mend", "tags": ["mend", "in-context-learning"]}
    if not Path(llm).exists() and hub_name_problem(llm) is None:
        header["base_model"] = llm
    if licence:
        header["license"] = licence
    if task:
        header["pipeline_tag"] = task
    return f"---\n{yaml.safe_dump(header, sort_keys=True)}---\n\n"


def _facts(facts: Mapping[str, Any]) -> list[str]:
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value is not None]
    return ["| | |", "|---|---|", *rows]


def _cell(value: Any) -> str:
    """Return a value as text that a table of Markdown shows as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("|", "\\|").replace("\n", " ")


def _of_llm(saved: SavedMethod | SavedContext) -> str:
    revision = f", revision {saved.llm.revision}" if saved.llm.revision else ""
    return f"{saved.llm.path}{revision} ({saved.llm.identity.architecture}, {saved.llm.dtype})"


def _of_method(saved: SavedMethod, training: Mapping[str, Any]) -> dict[str, Any]:
    cuts = training.get("cuts") or {}
    shown = sum(counts.get("demonstrations", 0) for counts in cuts.values())
    shots = shown / (training.get("examples") or 1) if training.get("stage") == "finetune" else 0
    return {
        "frozen LLM": _of_llm(saved),
        "vectors (l)": saved.method.settings.get("length"),
        "demonstrations (K) in training": f"{shots:g}" if shots else None,
        "longest demonstrations": f"{saved.reading.longest_context.distiller} tokens",
        "separators": json.dumps(dict(saved.reading.separators)),
        "last stage": training.get("stage"),
        "partition": training.get("partition"),
        "trained on": _few(task for task in cuts if not task.startswith("(")),
        "steps, and the kept one": training.get("steps")
        and f"{training['steps']}, {training.get('best_step')}",
        "trained parameters": training.get("parameters_trained"),
        "training seed": training.get("seed"),
        "commit": training.get("commit"),
    }


def _few(names: Iterable[str], most: int = 12) -> str | None:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else None


def _scores(scores: list[dict[str, Any]], training: Mapping[str, Any]) -> list[str]:
    lines = []
    if scores:
        lines = ["| LLM | partition | score, per cent | 95 % interval |", "|---|---|---|---|"]
        for row in scores:
            interval = f"{row['ci_low']:.1f} to {row['ci_high']:.1f}"
            cells = [_cell(row["llm"]), _cell(row["partition"]), f"{row['mean']:.1f}", interval]
            lines.append(f"| {' | '.join(cells)} |")
    else:
        lines = ["Nobody gave test scores when this was saved."]
    if training.get("best_score") is not None:
        lines += ["", f"Of the kept step, on dev rows: {training['best_score']:.1f}."]
    return lines
