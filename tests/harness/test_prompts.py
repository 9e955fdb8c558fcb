"""Prompts of the harness with their demonstrations kept apart."""

from __future__ import annotations

import pytest

from mend.errors import UserError
from mend.harness.prompts import Delimiters, Demonstration, read, write


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    made = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}, *made] if system else made


def test_turns_come_apart_again_and_their_text_is_the_harness_s() -> None:
    given = turns('1 "+" 1?', "2", "2 + 2?", "4", "3 + 3?", system="Add.\n\n")
    prompt = read(write(given, Delimiters(" = ", "\n", " is "), answer_begins=False))
    assert prompt.description == "Add.\n\n"
    assert prompt.demonstrations[0] == Demonstration('1 "+" 1?', " = ", "2", "\n")
    assert prompt.query == "3 + 3?"
    assert prompt.before_continuation == " is "
    assert prompt.text() == 'Add.\n\n1 "+" 1? = 2\n2 + 2? = 4\n3 + 3?'
    assert prompt.text(shots=1) == 'Add.\n\n1 "+" 1? = 2\n3 + 3?'
    assert prompt.text(shots=0) == "Add.\n\n3 + 3?"


def test_what_answers_begin_with_belongs_to_the_query() -> None:
    given = turns("1 + 1?", "It is 2", "2 + 2?\n", "It is 4", "3 + 3?", "It is")
    prompt = read(write(given, Delimiters(), answer_begins=True))
    assert prompt.text() == "1 + 1? It is 2\n\n2 + 2?\nIt is 4\n\n3 + 3? It is"
    assert [one.output for one in prompt.demonstrations] == ["It is 2", "It is 4"]
    assert prompt.query == "3 + 3? It is"


@pytest.mark.parametrize(
    "given",
    [[], turns("1", "2"), [{"role": "user", "content": "a"}] * 2, turns("1", system="2")[:1]],
)
def test_turns_without_a_query_or_out_of_order_are_refused(given) -> None:
    with pytest.raises(UserError, match="the harness gave turns of"):
        write(given, Delimiters(), answer_begins=False)


def test_a_text_that_was_not_written_so_is_refused() -> None:
    with pytest.raises(UserError, match="--apply_chat_template"):
        read("1 + 1? 2\n\n2 + 2?")
