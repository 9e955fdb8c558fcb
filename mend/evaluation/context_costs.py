"""What the context of each row takes: positions, bytes, and operations to make and to read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mend.data.items import MultipleChoiceItem
from mend.evaluation.grouping import GroupedMethod
from mend.methods.built import BuiltMethod
from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM
from mend.models.operations import ReadingOperations


class ContextCosts:
    """Notes what contexts take, while they are there, for each item that is asked after them.

    It is called with contexts as they are made (`mend.evaluation.scoring.WhenMade`).
    """

    def __init__(
        self,
        llm: FrozenLLM,
        method: BuiltMethod | GroupedMethod,
        items: Sequence[MultipleChoiceItem],
        answers: Sequence[Sequence[int]],
    ) -> None:
        """Begin with nothing known; answers: the tokens of each option, or of the one answer."""
        self.method = method.method if isinstance(method, GroupedMethod) else method
        self.grouped = self.method is not method
        self.items, self.answers = items, answers
        self.reading = ReadingOperations(llm)
        self.places: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            self.places.setdefault(item.context, []).append(place)
        self.found: dict[int, dict[str, Any]] = {}

    def __call__(self, numbers: Sequence[int], contexts: Contexts) -> None:
        """Note what contexts take; numbers: of each, that of its items (`item.context`)."""
        sizes = zip(contexts.lengths, contexts.nbytes, strict=True)
        for row, (number, (length, size)) in enumerate(zip(numbers, sizes, strict=True)):
            places = self.places[number]
            shown = self.items[places[0]].demonstrations
            made = shown if self.grouped else [shown]
            same = {
                "context_length": length,
                "context_bytes": size,
                "making_flops": sum(map(self.method.making_operations, made)),
            }
            for place in places:
                asked = len(self.items[place].query), self.answers[place]
                self.found[place] = same | {"reading_flops": self.reading(contexts, row, *asked)}

    def of(self, place: int) -> dict[str, Any]:
        """Return the costs of an item: columns of predictions (`PREDICTION_SCHEMA`)."""
        return self.found[place]
