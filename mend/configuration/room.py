"""Whether contexts, vectors and a query fit the models (protocol.longest_context)."""

from __future__ import annotations

from mend.configuration.specs.reading import LongestContext
from mend.errors import UserError

SHORTEST_QUERY = 8
"""Tokens that a query must have room for after vectors."""


def check_room(
    longest_context: LongestContext,
    positions: int,
    length: int | None = None,
    distiller_positions: int | None = None,
    run: str = "",
    groups: tuple[int, int] = (0, 0),
    text: tuple[int, int] = (0, 0),
) -> None:
    """Check that contexts, vectors and a query fit the models.

    Demonstrations give way to the query after them, so their longest context may be all the
    positions. Vectors cannot give way; whether a row's own query fits after them is checked when
    rows are read (`Template.check_vectors`).

    Args:
        longest_context: tokens of demonstrations that LLM and distiller read at most.
        positions: how many tokens the LLM can read.
        length: l, the number of vectors; None for a method without vectors.
        distiller_positions: how many tokens the distiller can read; None without a distiller.
        run: what the message calls the run, such as "gpt2-large, mend".
        groups: how many groups of demonstrations are distilled at the most, and their l.
        text: tokens of a chunk that pretraining predicts at the most, and the l before them.

    Raises:
        UserError: naming the keys, and values that would work.
    """
    llm = longest_context.llm
    start = f"{run}: " if run else ""
    if llm > positions:
        raise UserError(
            f"{start}protocol.longest_context.llm is {llm}, but the LLM has {positions} positions: "
            f"demonstrations leave no room for a query (at most {positions} works; of it, "
            "demonstrations take what a query leaves)"
        )
    if length is None:
        return
    longest = positions - SHORTEST_QUERY - 1
    if length > longest:
        raise UserError(
            f"{start}length (l) is {length}, but the LLM has {positions} positions: the vectors "
            f"leave no room for a query of {SHORTEST_QUERY} tokens and its answer "
            f"(at most {longest} works)"
        )
    if groups[0] * groups[1] > longest:
        raise UserError(
            f"{start}group: {groups[0]} groups of {groups[1]} vectors (length) are "
            f"{groups[0] * groups[1]}, but the LLM has {positions} positions: they leave no room "
            f"for a query of {SHORTEST_QUERY} tokens and its answer (at most "
            f"{longest // groups[1]} groups work); make `group` larger or `shots` smaller"
        )
    if sum(text) > positions:
        raise UserError(
            f"{start}pretrain.beta: pretraining predicts {text[0]} tokens of a chunk after "
            f"{text[1]} vectors (length), but the LLM has {positions} positions; raise beta, or "
            "lower length or benchmark.corpus.window"
        )
    if distiller_positions is not None and length >= distiller_positions:
        raise UserError(
            f"{start}length (l) is {length}, but the distiller has {distiller_positions} "
            "positions: they leave no room for demonstrations "
            f"(at most {distiller_positions - 1} works)"
        )
