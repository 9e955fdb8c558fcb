"""From rows to token ids: separators, truncation, and how much room a query has.

One example is `x` (its input) and `y` (its output); a demonstration is both, a query is x alone, an
option is a y that may be right. A query comes first: it is the same for every method and whatever
stands before it, and demonstrations take what it leaves (`protocol.longest_context`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from mend.configuration.specs.reading import ReadingSettings
from mend.data.demonstrations import Demonstrations
from mend.errors import UserError

PROBES = ("a", "1", ".")
"""Texts that stand before a part while it is tokenized, so that a tokenizer that begins a text with
a mark of its own (SentencePiece) does not begin the part with it. A probe counts if its tokens come
out in front as they are alone; where none does, a part is tokenized by itself."""


class Shown(NamedTuple):
    """Demonstrations as token ids, and what became of them.

    cut: demonstrations that lost tokens, to longest_example or to the limit; left_out: those of
    which not one token stays.
    """

    ids: Demonstrations
    cut: int
    left_out: int


class Template:
    """Turns rows into token ids, as the protocol says.

    The tokens of all parts in a row are those of the joined text, but that none reaches from one
    part into the next: a part (x or y with the separator before it) begins with a token of its
    own, also where the tokenizer would merge its first letters with the last ones before it. So
    a query is the same before each of its options, and demonstrations before each query. No
    special tokens are added. Token ids are kept for texts that come again.
    """

    def __init__(self, tokenizer: Any, reading: ReadingSettings, positions: int) -> None:
        """Set up for one tokenizer.

        Args:
            tokenizer: a transformers tokenizer.
            reading: how rows become tokens.
            positions: how many tokens the LLM can read.
        """
        self._before_output = reading.separators.input_output
        self._before_input = reading.separators.demonstrations
        self._overflow = reading.demonstration_overflow
        self._counts_output = reading.example_truncation == "input-and-output"
        self._longest_example = reading.longest_example
        self._longest_context = reading.longest_context.llm
        self._positions = positions

        unknown = getattr(tokenizer, "unk_token_id", None)

        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

        def encode_after(text: str) -> tuple[int, ...]:
            for probe in PROBES:
                before = probes[probe]
                if _kind(probe) == _kind(text) or not before or unknown in before:
                    continue
                joined = encode(probe + text)
                if joined[: len(before)] == before:
                    return joined[len(before) :]
            return encode(text)

        probes = {probe: encode(probe) for probe in PROBES}
        self._encode = lru_cache(maxsize=100_000)(encode)
        self._encode_after = lru_cache(maxsize=100_000)(encode_after)

    def example(
        self, input: str | None, output: str | None, first: bool
    ) -> tuple[list[int], list[int]]:
        """Token ids of x and y. x follows the separator of demonstrations unless it is `first`.

        x is cut at its end: with input-and-output so that x + y + 2 <= longest_example, with
        input-only to longest_example. y is never cut, so that x may be empty.

        A part that is None (not both) has no tokens, and the separator between input and output
        goes with it; that of demonstrations stays, before y if there is no x.
        """
        x, y, _ = self._example(input, output, first)
        return x, y

    def _example(
        self, input: str | None, output: str | None, first: bool
    ) -> tuple[list[int], list[int], bool]:
        """Return what `example` does, and whether x was cut."""
        if input is None:
            return [], self._input(output, separated=not first), False
        y = [] if output is None else self.option(output)
        x = self._input(input, separated=not first)
        longest = max(0, self._longest_input(len(y)))
        return x[:longest], y, len(x) > longest

    def demonstrations(
        self,
        rows: Sequence[tuple[str | None, str | None]],
        limit: int,
        nearest_last: bool = False,
    ) -> Shown:
        """Token ids of (input, output) rows one after the other, at most `limit` of them.

        With omit, the first demonstration that does not fit is left out with all after it; with
        cut-input, its x is cut to fit (if one token of it can stay) and all after it left out;
        with oldest-tokens the last `limit` tokens stay. Either part of a row may be None (see
        `example`).

        nearest_last: the last rows matter most, so of rows that do not fit, as many of the last
        as fit whole stay.
        """
        if self._overflow == "oldest-tokens":
            return self._last_tokens(rows, limit)
        fit = self._last_that_fit(rows, limit) if nearest_last else rows
        pairs: list[tuple[list[int], list[int]]] = []
        length = cut = shown = 0
        for number, (input, output) in enumerate(fit):
            x, y, shorter = self._example(input, output, first=number == 0)
            room = limit - length
            if len(x) + len(y) > room:
                if self._overflow == "cut-input" and len(y) < room:
                    pairs.append((x[: room - len(y)], y))
                    cut, shown = cut + 1, shown + 1
                break
            pairs.append((x, y))
            length += len(x) + len(y)
            cut, shown = cut + shorter, shown + 1
        return Shown(Demonstrations(pairs), cut, len(rows) - shown)

    def _last_tokens(self, rows: Sequence[tuple[str | None, str | None]], limit: int) -> Shown:
        parts = [self._example(*row, first=number == 0) for number, row in enumerate(rows)]
        ids = Demonstrations([(x, y) for x, y, _ in parts])
        fallen = max(0, len(ids) - limit)
        cut = left_out = start = 0
        for x, y, shorter in parts:
            end = start + len(x) + len(y)
            left_out += start < end <= fallen
            cut += end > fallen and (shorter or start < fallen)
            start = end
        return Shown(ids.last(limit), cut, left_out)

    def _last_that_fit(
        self, rows: Sequence[tuple[str | None, str | None]], limit: int
    ) -> Sequence[tuple[str | None, str | None]]:
        """Return as many of the last rows as fit whole."""
        later = 0  # tokens of the rows from `start` on, a separator before each
        for start in reversed(range(len(rows))):
            x, y = self.example(*rows[start], first=True)
            if len(x) + len(y) + later > limit:
                return rows[start + 1 :]
            x, y = self.example(*rows[start], first=False)
            later += len(x) + len(y)
        return rows

    def query(
        self, input: str, after_context: bool, longest_option: int, where: str = "a row"
    ) -> list[int]:
        """Token ids of a query that is to be scored with options.

        It is cut like an example, the longest option standing for y, and so that it and that
        option fit the LLM alone. It is the same after every context, empty ones included, but for
        the separator.

        Args:
            input: the row's input.
            after_context: whether it follows a context that is not empty, hence a separator.
            longest_option: tokens of the row's longest option, from `longest`.
            where: what the message calls the row.

        Raises:
            UserError: if the option alone leaves not one token of the query.
        """
        x = self._input(input, separated=after_context)
        room = self._positions - longest_option
        if room < 1:
            raise UserError(
                f"{where}: an option of {longest_option} tokens leaves no room for its query: the "
                f"LLM has {self._positions} positions"
            )
        return x[: max(1, min(room, self._longest_input(longest_option)))]

    def whole_query(self, input: str, after_context: bool) -> list[int]:
        """Token ids of a query, of which nothing is cut; `query` with all the room there is."""
        return self._input(input, separated=after_context)

    def answered_query(
        self, input: str, output: str, after_context: bool
    ) -> tuple[list[int], list[int]]:
        """Token ids of x and y of a query to train on.

        As `query` with y for the longest option; but an answer of more than half the LLM's
        positions (the essays of free-form tasks) would stop a training, so it is cut there. This
        is the one place where a y is cut.
        """
        y = self.option(output)[: self._positions // 2]
        return self.query(input, after_context, len(y)), y

    def is_cut(self, input: str, query: Sequence[int], after_context: bool) -> bool:
        """Whether the query that `query` made of an input has lost tokens."""
        return len(query) < len(self._input(input, separated=after_context))

    def is_answer_cut(self, output: str, answer: Sequence[int]) -> bool:
        """Whether the answer that `answered_query` made of an output has lost tokens."""
        return len(answer) < len(self.option(output))

    def longest_together(self, shots: int) -> int | None:
        """How many tokens demonstrations, query and one option may have together.

        Only with oldest-tokens, where it is MetaICL's rule: longest_example for each of the
        demonstrations, at most longest_context. None with another overflow.
        """
        if self._overflow != "oldest-tokens":
            return None
        return min(self._longest_context, self._positions, shots * self._longest_example)

    def room_before(self, query: int, answer: int, shots: int = 0) -> int:
        """How many tokens of demonstrations the LLM reads before a query and its longest option.

        query, answer: their tokens; shots: K. It is `protocol.longest_context`, or less where the
        LLM's positions leave less, or, with oldest-tokens, what they may have together.
        """
        together = self.longest_together(shots)
        if together is not None:
            return max(0, together - query - answer)
        return min(self._longest_context, self._positions - query - answer)

    def fits_beside_any(self, vectors: int) -> bool:
        """Whether vectors fit beside every query and answer that `answered_query` may return."""
        longest = self._longest_example
        if not self._counts_output:
            longest += self._positions // 2
        return vectors + max(longest, self._positions // 2 + 1) <= self._positions

    def fits(self, context: int, query: int, option: int) -> bool:
        """Whether so many tokens or vectors, and tokens, fit the LLM together."""
        return context + query + option <= self._positions

    def check_vectors(self, vectors: int, query: int, answer: int, where: str) -> None:
        """Raise UserError unless vectors, a query and its longest option fit the LLM.

        vectors: of one context; query, answer: tokens; where: the row, for the message.
        """
        if vectors > self._positions - query - answer:
            raise UserError(
                f"{where}: {vectors} vectors, a query of {query} tokens and an answer of {answer} "
                f"do not fit the LLM's {self._positions} positions; lower `length`, or "
                f"protocol.longest_example to at most {max(4, self._positions - vectors)}"
            )

    def option(self, text: str) -> list[int]:
        """Token ids of an output or option, with the separator before it; never cut.

        Raises:
            UserError: if no token comes out.
        """
        ids = list(self._encode_after(self._before_output + text))
        if not ids:
            raise UserError(f"the output or option {text[:60]!r} has no tokens, so it has no score")
        return ids

    def answer_start(self) -> list[int]:
        """Token ids of what stands between a query and an answer that is generated.

        It is the separator before outputs, but for spaces at its end: tokenizers make them a part
        of the word that follows.
        """
        text = self._before_output.rstrip(" ")
        return list(self._encode_after(text)) if text else []

    def longest(self, texts: Sequence[str]) -> int:
        """How many tokens the longest of some options has."""
        return max(len(self.option(text)) for text in texts)

    def _input(self, text: str, separated: bool) -> list[int]:
        if separated:
            return list(self._encode_after(self._before_input + text))
        return list(self._encode(text))

    def _longest_input(self, output_tokens: int) -> int:
        """How many tokens of x an example may have (`protocol.longest_example`)."""
        if self._counts_output:
            return self._longest_example - 2 - output_tokens
        return self._longest_example


def _kind(text: str) -> str:
    """Say what a text begins with; a tokenizer may merge what is of one kind."""
    first = text[:1]
    if first.isspace():
        return "space"
    return "letter" if first.isalpha() else "number" if first.isnumeric() else "other"
