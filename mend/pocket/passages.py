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
    PLAIN_HEADING,
    RELATION_LABELS,
    SECRET_HEADING,
    values_of,
    words_of,
)
from mend.pocket.rules import ALL_VALUES, RowMaker, Rule, attribute_values
from mend.pocket.universe import banned_pairs

LIST_SHARE = 0.8
KIND_SHARES = {
    "label": 0.32,
    "glossary": 0.05,
    "nli": 0.18,
    "paraphrase": 0.18,
    "pick": 0.11,
    "mate": 0.08,
    "name": 0.03,
    "look-up": 0.05,
}
HEADING_SHARE = 0.4
LIST_TOKENS = (96, 192)
VALUE_NAMES = tuple(name for _, name in ALL_VALUES)


@dataclass(frozen=True)
class Document:
    """A document as words, with the positions of the words that rows ask for.

    Attributes:
        words: the document's words.
        answers: indices into `words` of the rows' outputs; empty for running text.
        kind: the list's kind, or `prose`.
        words_per_value: the list's burstiness (None: all words occur).
    """

    words: tuple[str, ...]
    answers: tuple[int, ...]
    kind: str
    words_per_value: int | None = None


class DocumentMaker:
    """Samples documents.

    Args:
        rng: source of all randomness.
        burstiness: the values of words_per_value among which a list's is sampled.
        list_share: probability that a document is a list.
        kind_shares: probability of each kind among the lists.
        wrong_answers: probability that a row of a list with labels has a wrong one.
    """

    def __init__(
        self,
        rng: Random,
        burstiness: Sequence[int | None] = (1, 2, 3, None, None, None),
        list_share: float = LIST_SHARE,
        kind_shares: Mapping[str, float] = KIND_SHARES,
        wrong_answers: float = 0.0,
    ):
        self.rng, self.burstiness, self.list_share = rng, burstiness, list_share
        self.kinds, self.shares = tuple(kind_shares), tuple(kind_shares.values())
        self.banned = banned_pairs()
        self.wrong_answers = wrong_answers

    def document(self) -> Document:
        """Sample a document."""
        return self.list() if self.rng.random() < self.list_share else self.prose()

    def list(self, kind: str | None = None, tokens: int | None = None) -> Document:
        """Sample a list of at most `tokens` words, of a random kind if None."""
        rng = self.rng
        kind = kind or rng.choices(self.kinds, self.shares)[0]
        rule, plain = self.allowed_rule(kind)
        words_per_value = rng.choice(self.burstiness)
        if kind in ("mate", "paraphrase", "nli") and words_per_value == 1:
            words_per_value = 2
        tokens = tokens or rng.randint(*LIST_TOKENS)
        maker = RowMaker(rule, rng, words_per_value)
        words: list[str] = []
        if rng.random() < HEADING_SHARE and plain is not None:
            words.append(PLAIN_HEADING if plain else SECRET_HEADING)
        answers = []
        while True:
            row = maker.row()
            if len(words) + len(row.input) + 1 > tokens:
                break
            words.extend(row.input)
            answers.append(len(words))
            words.append(self._perhaps_wrong(row.output, rule.labels))
        return Document(tuple(words), tuple(answers), kind, words_per_value)

    def _perhaps_wrong(self, answer: str, labels: tuple[str, ...]) -> str:
        if not labels or not self.wrong_answers or self.rng.random() >= self.wrong_answers:
            return answer
        return self.rng.choice([label for label in labels if label != answer])

    def allowed_rule(self, kind: str) -> tuple[Rule, bool | None]:
        """Sample a rule of a kind, and whether its labels mean what they say (None: no labels)."""
        while True:
            rule, plain = self._rule(kind)
            if not self.banned & rule.pairs():
                return rule, plain

    def _rule(self, kind: str) -> tuple[Rule, bool | None]:
        rng = self.rng
        attribute = rng.choice(list(ATTRIBUTES))
        values = list(attribute_values(attribute))
        if kind == "glossary":
            chosen = tuple(rng.sample(ALL_VALUES, rng.randint(4, 10)))
            return Rule(kind, chosen, self._arbitrary_labels(len(chosen))), None
        if kind == "label":
            return self._label_rule(values)
        if kind in ("nli", "paraphrase"):
            number = 3 if kind == "nli" else 2
            if rng.random() < 0.5:
                return Rule(kind, tuple(values), self._arbitrary_labels(number)), False
            natural = rng.choice(RELATION_LABELS)[:number]
            labels = self._perhaps_shuffled(natural)
            return Rule(kind, tuple(values), labels), labels == natural
        if kind == "pick" and rng.random() < 0.5:
            chosen = rng.sample(list(ATTRIBUTES), 3)
            return Rule(kind, tuple(rng.choice(attribute_values(a)) for a in chosen)), None
        if kind == "pick":
            return Rule(kind, tuple(rng.sample(values, rng.choice((1, 3))))), None
        if kind == "name":
            return Rule(kind, tuple(values)), True
        return Rule(kind, tuple(values)), None

    def _label_rule(self, values: list) -> tuple[Rule, bool]:
        rng = self.rng
        if rng.random() < 0.3:
            values = rng.sample(ALL_VALUES, 4)
        chosen = rng.sample(values, rng.choice((2, 3, 3, len(values))))
        if rng.random() < 0.5:
            return Rule("label", tuple(chosen), self._arbitrary_labels(len(chosen))), False
        natural = tuple(name for _, name in chosen)
        labels = self._perhaps_shuffled(natural)
        return Rule("label", tuple(chosen), labels), labels == natural

    def _arbitrary_labels(self, number: int) -> tuple[str, ...]:
        """Sample labels; names of values too, so that each of them is seen as a label somewhere."""
        pool = ARBITRARY_LABELS if self.rng.random() < 0.7 else VALUE_NAMES
        return tuple(self.rng.sample(pool, number))

    def _perhaps_shuffled(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return the labels as they are, or as often in an order that is wrong for each of them."""
        if self.rng.random() < 0.5:
            return labels
        turn = self.rng.randrange(1, len(labels))
        return labels[turn:] + labels[:turn]

    def prose(self) -> Document:
        """Sample running text: what words mean, which are alike, and small scenes."""
        words: list[str] = []
        length = self.rng.randint(*LIST_TOKENS)
        values = self.rng.sample(ALL_VALUES, 6)
        while len(words) < length:
            words.extend(self._sentence(values))
        return Document(tuple(words), (), "prose")

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
