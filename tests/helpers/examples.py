"""Random examples to train on and items to score, and a MEND of a random distiller."""

from __future__ import annotations

from helpers.models import built, random_distiller, random_tokens
from mend.configuration.specs.training import Losses
from mend.data.examples import Example
from mend.data.items import MultipleChoiceItem
from mend.methods.built import BuiltMethod
from mend.methods.mend import Mend
from mend.models.frozen_llm import FrozenLLM

ALL = Losses(distill=1.0, clm=1.0, pred=1.0)


def random_mend(width: int = 16, length: int = 3, **options) -> Mend:
    """Return MEND with a distiller of random weights; options: of `random_distiller`."""

    class RandomMend(Mend):
        def trained(self, llm, run):
            return {"distiller": random_distiller(llm, width=width, length=length, **options)}

    return RandomMend(length=length)


def mend_method(llm: FrozenLLM, width: int = 16, **options) -> BuiltMethod:
    """Return MEND with a distiller of random weights, without dropout."""
    return built(llm, random_mend(width, **options)).eval()


def examples() -> list[Example]:
    made = []
    for index, (context, queries) in enumerate([(9, 2), (14, 1)]):
        demonstrations = random_tokens(context, index)
        pairs = [
            (random_tokens(4 + index + q, 20 + q), random_tokens(1 + q, 30 + index))
            for q in range(queries)
        ]
        made.append(Example(demonstrations, demonstrations, pairs))
    return made


def items() -> list[MultipleChoiceItem]:
    contexts = {0: random_tokens(11, 1), 1: random_tokens(4, 2), 2: random_tokens(25, 3)}
    made = []
    for index in range(9):
        options = [random_tokens(length, 90 + index + length) for length in (1, 3, 2)]
        context = index % 3
        query = random_tokens(3 + index, 40 + index)
        made.append(MultipleChoiceItem(context, contexts[context], query, options[: 2 + index % 2]))
    return made
