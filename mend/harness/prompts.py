"""A prompt of lm-evaluation-harness with its demonstrations kept apart from its query.

The harness gives a model one text a request. Where the turns of a chat are kept, it asks the model
how to write them, and the model writes them so that it can take them apart again. Turns come
without what the task puts between them, so that is written along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mend.errors import UserError

#: What a prompt begins with that was written here.
_MARK = "mend's turns: "


class Delimiters(NamedTuple):
    """What a task puts between the parts of its prompt; by default as the harness does.

    input_output: between an input and what answers it; demonstrations: after each demonstration;
    continuation: before a continuation that is scored, as far as the harness leaves it out where
    turns are kept.
    """

    input_output: str = " "
    demonstrations: str = "\n\n"
    continuation: str = " "


class Demonstration(NamedTuple):
    """An input and its output, and what the task puts between and after them."""

    input: str
    between: str
    output: str
    after: str


class Prompt(NamedTuple):
    """The parts of one prompt.

    description: what stands first. query: what is asked, with what the answer begins with, if the
    task gives that (`gen_prefix`). before_continuation: what stands before one that is scored.
    """

    description: str
    demonstrations: tuple[Demonstration, ...]
    query: str
    before_continuation: str

    def text(self, shots: int | None = None) -> str:
        """Return what a model without vectors reads, with the first `shots` demonstrations or all.

        It is the text that the harness makes itself where it keeps no turns.
        """
        shown = "".join(part for one in self.demonstrations[:shots] for part in one)
        return self.description + shown + self.query


def write(turns: Sequence[Mapping[str, str]], delimiters: Delimiters, answer_begins: bool) -> str:
    """Return turns of a chat as one text.

    turns: of role system (at most one, the first), user and assistant. answer_begins: whether the
    last is what the answer begins with, and all answers begin so.
    Raises UserError if demonstrations are not kept apart.
    """
    turns = list(turns)
    description = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
    roles = [turn["role"] for turn in turns]
    pairs = (len(turns) - 1 - answer_begins) // 2
    if roles != ["user", "assistant"] * pairs + ["user", "assistant"][: 1 + answer_begins]:
        raise UserError(
            f"the harness gave turns of {', '.join(roles) or 'nobody'}, and not one of a user and "
            "one of an assistant for each demonstration"
        )
    texts = [turn["content"] for turn in turns]
    demonstrations = []
    for input, output in zip(texts[: 2 * pairs : 2], texts[1 : 2 * pairs : 2], strict=True):
        between = delimiters.input_output
        if answer_begins:
            between = _between(input, output, between)
        demonstrations.append([input, between, output, delimiters.demonstrations])
    query, *begins = texts[2 * pairs :]
    if begins:
        query += _between(query, begins[0], delimiters.input_output) + begins[0]
    parts = [description, demonstrations, query, delimiters.continuation]
    return _MARK + json.dumps(parts, ensure_ascii=False)


def _between(first: str, second: str, delimiter: str) -> str:
    """Return a delimiter where the harness puts one before what answers begin with."""
    is_apart = first[-1:].isspace() or second[:1].isspace()
    return "" if is_apart or not first else delimiter


def read(context: str) -> Prompt:
    """Return the parts of a text that `write` wrote; raises UserError for another."""
    if not context.startswith(_MARK):
        raise UserError(
            "the harness gave a prompt whose demonstrations are not kept apart; start it with "
            "--apply_chat_template --fewshot_as_multiturn true"
        )
    description, rows, query, before = json.loads(context[len(_MARK) :])
    return Prompt(description, tuple(Demonstration(*row) for row in rows), query, before)
