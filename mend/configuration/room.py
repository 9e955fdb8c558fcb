"""Whether contexts, vectors and a query fit the models (protocol.longest_context)."""

from __future__ import annotations

from mend.configuration.specs.reading import LongestContext
from mend.errors import UserError

SHORTEST_QUERY = 8
"""Tokens that a query must have room for after the longest context."""


def check_room(
    longest_context: LongestContext,
    positions: int,
    length: int | None = None,
    distiller_positions: int | None = None,
    run: str = "",
) -> None:
    """Check that contexts, vectors and a query fit the models.

    Args:
        longest_context: tokens of demonstrations that LLM and distiller read at most.
        positions: how many tokens the LLM can read.
        length: l, the number of vectors; None for a method without vectors.
        distiller_positions: how many tokens the distiller can read; None without a distiller.
        run: what the message calls the run, such as "gpt2-large, mend".

    Raises:
        UserError: naming the keys, and values that would work.
    """
    llm = longest_context.llm
    start = f"{run}: " if run else ""
    longest = positions - SHORTEST_QUERY - 1
    if llm > longest:
        raise UserError(
            f"{start}protocol.longest_context.llm is {llm}, but the LLM has {positions} positions: "
            f"demonstrations leave no room for a query of {SHORTEST_QUERY} tokens and its answer "
            f"(at most {longest} works)"
        )
    if length is None:
        return
    if length > longest:
        raise UserError(
            f"{start}length (l) is {length}, but the LLM has {positions} positions: the vectors "
            f"leave no room for a query of {SHORTEST_QUERY} tokens and its answer "
            f"(at most {longest} works)"
        )
    if length > llm:
        raise UserError(
            f"{start}length (l) is {length}, but queries are cut to follow at most "
            f"protocol.longest_context.llm = {llm} tokens (a length of at most {llm} works, or a "
            f"longest_context.llm from {length} to {longest})"
        )
    if distiller_positions is not None and length >= distiller_positions:
        raise UserError(
            f"{start}length (l) is {length}, but the distiller has {distiller_positions} "
            "positions: they leave no room for demonstrations "
            f"(at most {distiller_positions - 1} works)"
        )
