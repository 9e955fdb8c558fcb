"""Rules of the pocket world: what a task, or one list of the corpus, asks for in each of its rows.

A rule is a kind, the values its words come from, and its labels. The kinds, by example:

    label      `the fox merry`          -> `alder`  the label of the last word's value
    paraphrase `if merry glad`          -> `yes`    have the two words the same value?
    nli        `if merry gloomy`        -> `no`     same value, another value, another attribute
    pick       `take fox lake plum`     -> `lake`   the word that has one of the rule's values
    look-up    `ask fox tom owl ann fox` -> `tom`   what stands after the last word
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from mend.pocket.lexicon import ATTRIBUTES, OPENERS, PEOPLE, VALUE_OF_WORD, values_of

Value = tuple[str, str]
"""An attribute and the name of one of its values."""

QA_KINDS = ("pick", "look-up")


@dataclass(frozen=True)
class Row:
    """One example: input words, the output word, and the options it is among."""

    input: tuple[str, ...]
    output: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """What decides a row's output.

    Attributes:
        kind: one of the kinds in the module's docstring.
        values: the values whose words are the row's key words.
        labels: the output words of `label` (parallel to values), `paraphrase` (2) and `nli` (3);
            empty for the kinds whose options are in each row.
    """

    kind: str
    values: tuple[Value, ...]
    labels: tuple[str, ...] = ()

    def pairs(self) -> frozenset[tuple[str, str, str]]:
        """Return what this rule teaches: (kind, what is asked about, answer) triples.

        `paraphrase` and `nli` share a kind, so that keeping a triple out of one keeps it out of
        the other. Labels count for a whole attribute: a list that calls *sad* words `alder` also
        teaches the pair of mood and `alder`.
        """
        attributes = {attribute for attribute, _ in self.values}
        if self.kind == "pick":
            # A list that picks words of several attributes teaches none of them.
            single = len(attributes) == 1
            return frozenset(("pick", *value) for value in self.values if single)
        if self.kind == "look-up":
            return frozenset((self.kind, attribute, "") for attribute in attributes)
        kind = "label" if self.kind == "label" else "relation"
        return frozenset((kind, a, label) for a in attributes for label in self.labels)


def perhaps_wrong(row: Row, share: float, rng: Random) -> Row:
    """Return the row, or with probability `share` the row with another of its options."""
    if not share or rng.random() >= share:
        return row
    wrong = rng.choice([option for option in row.options if option != row.output])
    return Row(row.input, wrong, row.options)


@cache
def attribute_values(attribute: str) -> tuple[Value, ...]:
    """Return all (attribute, value) pairs of an attribute."""
    return tuple((attribute, value) for value in values_of(attribute))


ALL_VALUES: tuple[Value, ...] = tuple(v for a in ATTRIBUTES for v in attribute_values(a))
_WORDS = {(a, v): words for a, values in ATTRIBUTES.items() for v, words in values.items()}


@cache
def _words_outside(attributes: frozenset[str]) -> tuple[str, ...]:
    return tuple(w for w, (a, _) in VALUE_OF_WORD.items() if a not in attributes)


@cache
def _other_values(value: Value) -> tuple[Value, ...]:
    return tuple(v for v in attribute_values(value[0]) if v != value)


class RowMaker:
    """Samples rows of one rule.

    Args:
        rule: the rule.
        rng: source of all randomness.
        words_per_value: how many words of each value occur; None for all of them. Few words make
            a list bursty: its words, and so its word-to-label pairs, come back.
    """

    def __init__(self, rule: Rule, rng: Random, words_per_value: int | None = None):
        self.rule, self.rng = rule, rng
        attributes = frozenset(attribute for attribute, _ in rule.values)
        self.fillers = _words_outside(attributes)
        self.words: dict[Value, Sequence[str]] = _WORDS
        if words_per_value is not None:
            self.words = {v: rng.sample(w, words_per_value) for v, w in _WORDS.items()}
        self._sample = {"label": self._label, "pick": self._pick, "look-up": self._look_up}.get(
            rule.kind, self._relation
        )

    def classes(self) -> int:
        """Return the number of classes among which rows should be balanced."""
        return {"paraphrase": 2, "nli": 3}.get(self.rule.kind, len(self.rule.values))

    def row(self, index: int | None = None) -> Row:
        """Sample a row of class `index` (a random class if None)."""
        if index is None:
            index = int(self.rng.random() * self.classes())
        return self._sample(index)

    def _choose(self, items: Sequence):
        return items[int(self.rng.random() * len(items))]

    def _label(self, index: int) -> Row:
        key = self._choose(self.words[self.rule.values[index]])
        words = (self._choose(OPENERS["label"]), self._choose(self.fillers), key)
        return Row(words, self.rule.labels[index], self.rule.labels)

    def _relation(self, relation: int) -> Row:
        value = self._choose(self.rule.values)
        first = self._choose(self.words[value])
        if relation == 0:
            same = [word for word in self.words[value] if word != first]
            second = self._choose(same) if same else first
        elif relation == 1:
            second = self._choose(self.words[self._choose(_other_values(value))])
        else:
            second = self._choose(_words_outside(frozenset([value[0]])))
        labels = self.rule.labels
        return Row((self._choose(OPENERS["relation"]), first, second), labels[relation], labels)

    def _pick(self, index: int) -> Row:
        key = self._choose(self.words[self.rule.values[index]])
        first = second = self._choose(self.fillers)
        while VALUE_OF_WORD[second][0] == VALUE_OF_WORD[first][0]:
            second = self._choose(self.fillers)
        options = [key, first, second]
        self.rng.shuffle(options)
        return Row((self._choose(OPENERS["pick"]), *options), key, tuple(options))

    def _look_up(self, index: int) -> Row:
        key = self._choose(self.words[self.rule.values[index]])
        stranger = self._choose([w for w in self.fillers if w != key])
        person, other_person = self.rng.sample(PEOPLE, 2)
        entries = [(key, person), (stranger, other_person)]
        self.rng.shuffle(entries)
        shown = tuple(word for entry in entries for word in entry)
        options = (entries[0][1], entries[1][1])
        return Row((self._choose(OPENERS["look-up"]), *shown, key), person, options)
