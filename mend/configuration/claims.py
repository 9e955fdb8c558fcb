"""Claims: what a study, or figure 3, is to show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mend.configuration.settings import Settings, Text
from mend.errors import UserError

Value = int | float | str
"""Of an axis."""

Measured = Literal["vanilla-icl", "prompt-tuning", "mend"]
"""Methods whose costs figure 3 has."""

PaperTable = Literal["table2", "table3", "table4", "table6", "table7"]
"""The paper's tables that can stand beside a study."""

Point = dict[str, Value]
"""A value of each axis, or of some."""


class Claim(Settings):
    """One point of a study is above another; axes that are not named take every value."""

    text: Text
    """The claim in words."""

    higher: dict[str, Value | list[Value]]
    """Values of axes; those of lists are read side by side with all other lists."""

    lower: dict[str, Value | list[Value]]
    """Values of the same axes."""

    margin: float = 0.0
    """By how many points the first is to be above the second."""

    @property
    def sides(self) -> dict[str, dict[str, Value | list[Value]]]:
        """Both sides by name."""
        return {"higher": self.higher, "lower": self.lower}

    @property
    def listed_axes(self) -> set[str]:
        """The axes for which the claim lists values, on either side."""
        sides = self.sides.values()
        return {axis for side in sides for axis, value in side.items() if isinstance(value, list)}

    def pairs(self) -> list[tuple[Point, Point]]:
        """The (higher, lower) points; several if the claim lists values.

        The first values of all its lists make the first pair, and so on; a single value stands in
        every pair. Raises UserError for lists of different lengths.
        """
        values = [value for side in self.sides.values() for value in side.values()]
        lengths = sorted({len(value) for value in values if isinstance(value, list)})
        if len(lengths) > 1:
            raise UserError(
                f"the lists of one claim go together, value by value, but here they have "
                f"{' and '.join(map(str, lengths))} values"
            )
        return [
            tuple(
                {axis: v[place] if isinstance(v, list) else v for axis, v in side.items()}
                for side in self.sides.values()
            )
            for place in range(lengths[0] if lengths else 1)
        ]


class CostClaim(Settings):
    """One method's cost in figure 3 is below so many times another's."""

    text: Text
    """The claim in words."""

    quantity: Literal["flops", "peak_memory_bytes", "seconds"]
    """What is compared: operations, peak memory or time of one query."""

    lower: Measured
    """The method that costs less."""

    higher: Measured
    """The method that it is compared with."""

    times: Annotated[float, Field(gt=0)] = 1.0
    """How many times the other's cost is the bar."""

    up_to: bool = False
    """Whether one partition where it holds is enough; else it is to hold at each."""
