"""Room: contexts, vectors and a query must fit the models."""

from __future__ import annotations

import pytest

from mend.configuration.room import check_room
from mend.configuration.specs.reading import LongestContext
from mend.errors import UserError

LONGEST = LongestContext(llm=60, distiller=60)


def test_room_that_is_enough():
    check_room(LONGEST, 60)
    check_room(LONGEST, 69, 60, 120, "some run")
    check_room(LONGEST, 100, 91, None)
    check_room(LONGEST, 100, 30, 120, groups=(3, 30))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            {"positions": 59},
            ["protocol.longest_context.llm is 60", "59 positions", "at most 59 works"],
        ),
        (
            {"positions": 90, "length": 82},
            ["length (l) is 82", "90 positions", "at most 81 works"],
        ),
        (
            {"positions": 90, "length": 20, "groups": (5, 20)},
            ["group: 5 groups of 20 vectors (length) are 100", "90 positions", "at most 4 groups"],
        ),
        (
            {"positions": 90, "length": 20, "distiller_positions": 20},
            ["length (l) is 20, but the distiller has 20 positions", "at most 19 works"],
        ),
    ],
)
def test_room_that_is_not(arguments, parts):
    with pytest.raises(UserError) as raised:
        check_room(LONGEST, run="pocket, mend", **arguments)
    message = str(raised.value)
    assert message.startswith("pocket, mend: ")
    for part in parts:
        assert part in message
