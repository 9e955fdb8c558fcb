"""Documents of the pocket corpus: lists that follow a random rule, and running text.

A list is to this corpus what the tables, dialogues and enumerations of web text are to C4: rows
that make sense only together. Its rule is sampled from all kinds, values and labels that are not
banned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from mend.pocket.lexicon import (
    ARBITRARY_LABELS,
    ATTRIBUTES,
    RELATION_LABELS,
    values_of,
    words_of,
)
from mend.pocket.rules import ALL_VALUES, RowMaker, Rule, attribute_values, perhaps_wrong
from mend.pocket.universe import banned_pairs

LIST_SHARE = 0.7
KIND_SHARES = {"label": 0.42, "nli": 0.16, "paraphrase": 0.16, "pick": 0.18, "look-up": 0.08}
BURSTINESS = (1, 2, 3, None, None, None)
WORDS = (64, 128)
SHUFFLED_LABELS = 0.3
VALUE_NAMES = tuple(name for _, name in ALL_VALUES)


@dataclass(frozen=True)
class Document:
    """A document as words, with where its rows begin.

    Attributes:
        words: the document's words.
        rows: indices into `words` of the rows' first words; empty for running text.
        answers: indices into `words` of the rows' outputs; empty for running text.
        kind: the list's kind, or `prose`.
    """

    words: tuple[str, ...]
    rows: tuple[int, ...]
    answers: tuple[int, ...]
    kind: str


class DocumentMaker:
    """Samples documents.

    Args:
        rng: source of all randomness.
        wrong_answers: probability that a row of a list has a wrong answer.
        words: how many words a document has: at least and at most.
        burstiness: the values of words_per_value among which a list's is sampled.
        list_share: probability that a document is a list.
        kind_shares: probability of each kind among the lists.
    """

    def __init__(
        self,
        rng: Random,
        wrong_answers: float = 0.0,
        words: tuple[int, int] = WORDS,
        burstiness: Sequence[int | None] = BURSTINESS,
        list_share: float = LIST_SHARE,
        kind_shares: Mapping[str, float] = KIND_SHARES,
    ):
        self.rng, self.burstiness, self.list_share = rng, burstiness, list_share
        self.kinds, self.shares = tuple(kind_shares), tuple(kind_shares.values())
        self.banned = banned_pairs()
        self.wrong_answers, self.words = wrong_answers, words

    def document(self) -> Document:
        """Sample a document."""
        return self.list() if self.rng.random() < self.list_share else self.prose()

    def list(self, kind: str | None = None) -> Document:
        """Sample a list, of a random kind if None."""
        rng = self.rng
        kind = kind or rng.choices(self.kinds, self.shares)[0]
        words_per_value = rng.choice(self.burstiness)
        if kind in ("paraphrase", "nli") and words_per_value == 1:
            words_per_value = 2
        maker = RowMaker(self.allowed_rule(kind), rng, words_per_value)
        length = rng.randint(*self.words)
        words: list[str] = []
        rows, answers = [], []
        while len(words) < length:
            row = perhaps_wrong(maker.row(), self.wrong_answers, rng)
            rows.append(len(words))
            words.extend(row.input)
            answers.append(len(words))
            words.append(row.output)
        return Document(tuple(words), tuple(rows), tuple(answers), kind)

    def allowed_rule(self, kind: str) -> Rule:
        """Sample a rule of a kind that teaches nothing which is banned."""
        while True:
            rule = self._rule(kind)
            if not self.banned & rule.pairs():
                return rule

    def _rule(self, kind: str) -> Rule:
        rng = self.rng
        attribute = rng.choice(list(ATTRIBUTES))
        values = attribute_values(attribute)
        if kind == "label":
            return self._label_rule(values)
        if kind in ("nli", "paraphrase"):
            number = 3 if kind == "nli" else 2
            if rng.random() < 0.5:
                return Rule(kind, values, self._arbitrary_labels(number))
            natural = rng.choice(RELATION_LABELS)[:number]
            return Rule(kind, values, self._perhaps_shuffled(natural))
        if kind == "pick" and rng.random() < 0.5:
            chosen = rng.sample(list(ATTRIBUTES), rng.choice((2, 3)))
            return Rule(kind, tuple(rng.choice(attribute_values(a)) for a in chosen))
        if kind == "pick":
            return Rule(kind, tuple(rng.sample(values, rng.choice((1, 2, 4)))))
        return Rule(kind, values)

    def _label_rule(self, values: Sequence) -> Rule:
        rng = self.rng
        if rng.random() < 0.3:
            values = rng.sample(ALL_VALUES, 4)
        chosen = tuple(rng.sample(values, rng.choice((2, 3, 4, 4))))
        if rng.random() < 0.5:
            return Rule("label", chosen, self._arbitrary_labels(len(chosen)))
        return Rule("label", chosen, self._perhaps_shuffled(tuple(name for _, name in chosen)))

    def _arbitrary_labels(self, number: int) -> tuple[str, ...]:
        """Sample labels; names of values too, so that each of them is seen as a label somewhere."""
        pool = ARBITRARY_LABELS if self.rng.random() < 0.7 else VALUE_NAMES
        return tuple(self.rng.sample(pool, number))

    def _perhaps_shuffled(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return the labels as they are, or now and then in an order that is wrong for each."""
        if self.rng.random() >= SHUFFLED_LABELS:
            return labels
        turn = self.rng.randrange(1, len(labels))
        return labels[turn:] + labels[:turn]

    def prose(self) -> Document:
        """Sample running text: what words mean, which are alike, and small scenes."""
        words: list[str] = []
        length = self.rng.randint(*self.words)
        values = self.rng.sample(ALL_VALUES, 6)
        while len(words) < length:
            words.extend(self._sentence(values))
        return Document(tuple(words), (), (), "prose")

    def _sentence(self, values: list) -> list[str]:
        rng = self.rng
        form = rng.random()
        attribute, name = rng.choice(values)
        word, alike = rng.sample(ATTRIBUTES[attribute][name], 2)
        if form < 0.35:
            return [word, "means", name, "."]
        if form < 0.5:
            return [word, "is", "like", alike, "."]
        if form < 0.6:
            other = rng.choice([v for v in values_of(attribute) if v != name])
            return [word, "is", "not", other, "."]
        if form < 0.7:
            return [word, "and", alike, "is", name, "."]
        person, tree = rng.sample(ARBITRARY_LABELS, 2)
        if form < 0.8:
            return [person, "met", rng.choice(words_of("animal")), "near", tree, "."]
        describing = rng.choice(words_of(rng.choice(("mood", "size", "colour"))))
        scene = ["the", describing, rng.choice(words_of("animal"))]
        if form < 0.9:
            action = rng.choice(words_of("action"))
            return [*scene, action, "in", rng.choice(words_of("place")), "."]
        return [*scene, "eats", rng.choice(words_of("food")), "."]
