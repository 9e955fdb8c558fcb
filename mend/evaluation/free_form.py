"""Answers of free-form tasks: generated, and compared with the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from mend.configuration.specs.reading import Separators
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.grouping import GroupedMethod
from mend.evaluation.scoring import WhenMade
from mend.methods.built import BuiltMethod
from mend.models.frozen_llm import FrozenLLM
from mend.models.generation import generate
from mend.progress import Progress

AT_ONCE = 64
"""Items whose contexts are made, and answers generated, at once."""


def answered(
    llm: FrozenLLM,
    method: BuiltMethod | GroupedMethod,
    items: Sequence[MultipleChoiceItem],
    longest: Sequence[int],
    right: Sequence[str],
    separators: Separators,
    progress: Progress,
    when_made: WhenMade,
) -> list[dict[str, Any]]:
    """Return {generated, exact_match, f1, rouge_l} of each item; see `generated` and `agreement`.

    right: the right answer of each.
    """
    texts = generated(llm, method, items, longest, separators, progress, when_made)
    return [
        {"generated": text, **agreement(text, answer)._asdict()}
        for text, answer in zip(texts, right, strict=True)
    ]


@torch.no_grad()
def generated(
    llm: FrozenLLM,
    method: BuiltMethod | GroupedMethod,
    items: Sequence[MultipleChoiceItem],
    longest: Sequence[int],
    separators: Separators,
    progress: Progress,
    when_made: WhenMade,
) -> list[str]:
    """Return what the LLM writes after each item, the likeliest token each time.

    An answer ends where the separator of demonstrations is (spaces around it do not count), at the
    token that ends a text, or after so many tokens.

    items: without options. longest: of each, the most tokens of an answer. when_made: is told of
    contexts as they are made.
    """
    stop = separators.demonstrations.strip(" ")
    method.eval()
    numbers: dict[tuple, int] = {}
    each = [
        (item.context, tuple(item.query), most) for item, most in zip(items, longest, strict=True)
    ]
    where = [numbers.setdefault(key, len(numbers)) for key in each]
    distinct = dict(zip(where, zip(items, longest, strict=True), strict=True))
    answers: dict[int, str] = {}
    # Answers of one length together, and contexts of similar length.
    order = sorted(distinct, key=lambda n: (distinct[n][1], len(distinct[n][0].demonstrations), n))
    while order:
        most = distinct[order[0]][1]
        part = [number for number in order[:AT_ONCE] if distinct[number][1] == most]
        order = order[len(part) :]
        of_part = [distinct[number][0] for number in part]
        shown = {item.context: item.demonstrations for item in of_part}
        rows = {context: row for row, context in enumerate(shown)}
        contexts = method.contexts(llm, list(shown.values()))
        when_made([*shown], contexts)
        tokens = generate(
            llm,
            contexts,
            [rows[item.context] for item in of_part],
            [item.query for item in of_part],
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            stop_strings=[stop],
        )
        for number, ids in zip(part, tokens, strict=True):
            text = llm.tokenizer.decode(ids, skip_special_tokens=True)
            answers[number] = text.partition(stop)[0].strip()
        progress.update(len(answers))
    return [answers[number] for number in where]


class Agreement(NamedTuple):
    """How an answer agrees with the right one, in per cent."""

    exact_match: float
    f1: float
    rouge_l: float


def agreement(answer: str, right: str) -> Agreement:
    """Compare an answer with the right one.

    exact_match and f1 are SQuAD's (letter case, punctuation and articles do not count; F1 is over
    words), rouge_l the F-measure of ROUGE-L, which knows the letters a to z and digits alone.
    Raises UserError if the libraries that compute them are not there.
    """
    try:
        from torchmetrics.functional.text import rouge_score, squad
    except ModuleNotFoundError:
        raise UserError(
            "free-form tasks: the Python package torchmetrics is not installed, which computes "
            "exact match, F1 and ROUGE; pip install torchmetrics nltk"
        ) from None
    found = squad(
        [{"prediction_text": answer, "id": "0"}],
        [{"answers": {"answer_start": [0], "text": [right]}, "id": "0"}],
    )
    rouge = rouge_score(answer, right, rouge_keys="rougeL")["rougeL_fmeasure"]
    return Agreement(
        *(round(float(value), 4) for value in (found["exact_match"], found["f1"], 100 * rouge))
    )
