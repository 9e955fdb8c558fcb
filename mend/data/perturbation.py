"""Demonstrations that are perturbed on purpose (section 5.2, table 3 of the paper).

A perturbation belongs to a demonstration, not to a query: it is sampled once for each row, so
that all methods, and all queries that have the row before them, see the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from mend.configuration.conditions import PERTURBATIONS
from mend.data.layout import Row
from mend.data.seeding import generator
from mend.errors import UserError
from mend.progress import logger

Demonstration = tuple[str | None, str | None]
"""Input and output of a demonstration; None where the part is left out, with its separator."""


def perturb(
    input: str, output: str, options: Sequence[str], kind: str, key: Sequence[str | int]
) -> Demonstration:
    """Return (input, output) of a demonstration as a perturbation leaves it.

    no-label leaves out the output and no-input the input; random-label samples one of the
    row's options, each different text as likely (the right one too); wrong-label one of those that
    are not the output, which stays if there is none.

    Args:
        input: x of the demonstration.
        output: y of the demonstration.
        options: the row's options.
        kind: one of PERTURBATIONS.
        key: the sampling key, together with `kind`: seed, task, seed of the rows, split and row
            number.

    Raises:
        UserError: if there is no such perturbation.
    """
    if kind not in PERTURBATIONS:
        raise UserError(f"perturbation {kind!r}: there are {', '.join(PERTURBATIONS)}")
    if kind == "no-label":
        return input, None
    if kind == "no-input":
        return None, output
    choices = list(dict.fromkeys(options))
    if kind == "wrong-label":
        choices = [option for option in choices if option != output]
    if not choices:
        return input, output
    chosen = generator("perturbation", kind, *key).integers(len(choices))
    return input, choices[int(chosen)]


def perturb_rows(
    rows: Sequence[Row], kind: str, sampling_seed: int, task: str, seed: int, split: str
) -> list[Demonstration]:
    """Perturb all rows of a split and seed of a task, in their order.

    Says in the log how many of them wrong-label could not change.

    Raises:
        UserError: as `perturb`.
    """
    perturbed = [
        perturb(*row, kind, (sampling_seed, task, seed, split, number))
        for number, row in enumerate(rows)
    ]
    if kind == "wrong-label":
        right = sum(after == row[:2] for after, row in zip(perturbed, rows, strict=True))
        if right:
            logger.warning(
                "task %s, seed %d: %d of %d %s rows have no wrong option and keep their label",
                task,
                seed,
                right,
                len(rows),
                split,
            )
    return perturbed
