"""How much of the rows was cut to fit: counted by task, told in logs and kept in records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mend.progress import logger

CUT_COUNTS = (
    "queries",
    "queries_cut",
    "demonstrations",
    "demonstrations_cut",
    "demonstrations_left_out",
    "answers_cut",
)
"""What is counted of a task: queries (each with its answer) and demonstrations, how many of them
lost tokens, and how many demonstrations were left out whole."""

CutCounts = dict[str, int]
"""Numbers by the names of CUT_COUNTS; those that are 0 may be absent."""


def add_cuts(total: dict[str, CutCounts], found: Mapping[str, Mapping[str, int]]) -> None:
    """Add the counts of some tasks to `total`, which has them by task."""
    for task, counts in found.items():
        of_task = total.setdefault(task, dict.fromkeys(CUT_COUNTS, 0))
        for name, number in counts.items():
            of_task[name] += number


def log_cuts(name: str, total: Mapping[str, Mapping[str, int]]) -> None:
    """Log a line for each task of which anything was cut or left out, and one if nothing was."""
    lines = list(cut_sentences(total))
    for line in lines:
        logger.info("%s: %s", name, line)
    if total and not lines:
        logger.info("%s: nothing was cut", name)


def cut_sentences(total: Mapping[str, Mapping[str, int]]) -> Iterable[str]:
    """Yield a line for each task of which anything was cut or left out."""
    for task, counts in sorted(total.items()):
        queries, shown = counts.get("queries", 0), counts.get("demonstrations", 0)
        parts = [
            f"{counts[key]} of {whole} {what}"
            for key, whole, what in (
                ("queries_cut", queries, "queries cut"),
                ("answers_cut", queries, "answers cut"),
                ("demonstrations_cut", shown, "demonstrations cut"),
                ("demonstrations_left_out", shown, "demonstrations left out"),
            )
            if counts.get(key)
        ]
        if parts:
            yield f"{task}: {', '.join(parts)}"
