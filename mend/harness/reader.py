"""What a method reads of the harness's prompts: contexts of vectors, and tokens after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import commonprefix
from typing import Any, NamedTuple

from tqdm import tqdm

from mend.errors import UserError
from mend.evaluation.loglikelihood import (
    AT_ONCE,
    Continuation,
    LogLikelihood,
    log_likelihoods,
    most_positions,
)
from mend.harness.prompts import Prompt
from mend.library.context import Context, joined
from mend.library.methods import ContextMethod
from mend.models.contexts import Contexts, TokenContexts
from mend.models.frozen_llm import FrozenLLM
from mend.models.generation import generate
from mend.progress import logger


class _Group(NamedTuple):
    """Some prompts: their numbers, and what they are read after.

    contexts: vectors, and of each prompt which of them; none where all that is read is text.
    """

    numbers: list[int]
    contexts: list[Context]
    owner: list[int]


class PromptReader:
    """Reads prompts with one method, or after one saved context.

    llm: the frozen LLM. method: what makes vectors of demonstrations; None if they are read as
    text. context: what is read in place of demonstrations. shots: how many demonstrations of each
    prompt are read, from the first on; None for all. distilled: sets that were distilled so far.
    """

    def __init__(
        self,
        llm: FrozenLLM,
        method: ContextMethod | None = None,
        context: Context | None = None,
        shots: int | None = None,
    ) -> None:
        """Read as the arguments say."""
        self.llm, self.method, self.context, self.shots = llm, method, context, shots
        self.distilled = 0
        self._is_pair = llm.model.config.is_encoder_decoder

    def log_likelihoods(
        self,
        prompts: Sequence[Prompt | None],
        continuations: Sequence[str],
        batch_size: int | None = None,
    ) -> list[LogLikelihood]:
        """Return the log-likelihood of each text after its prompt; None is no prompt at all.

        A text is split into tokens as a stock `hf` model of the harness does: those of prompt and
        continuation together, without those of the prompt. What a prompt has too many of for the
        LLM's positions falls off in front. An encoder reads demonstrations alone.
        Raises UserError if a saved context is to be read and there are demonstrations.
        """
        found: dict[int, LogLikelihood] = {}
        cut = 0
        for group in self._groups(prompts, "log-likelihoods"):
            pairs = []
            for row, number in enumerate(group.numbers):
                context = group.contexts[group.owner[row]] if group.contexts else None
                before, after = self._pair(context, prompts[number], continuations[number])
                room = most_positions(self.llm) - len(after) - len(context or ())
                cut += len(before) > room
                pairs.append((before[max(0, len(before) - max(0, room)) :], after))
            if group.contexts:
                contexts = joined(group.contexts, self.llm)
                asked = [
                    Continuation(owner, *pair)
                    for owner, pair in zip(group.owner, pairs, strict=True)
                ]
            elif self._is_pair:
                contexts, owner = self._encoded_text([prompts[number] for number in group.numbers])
                asked = [Continuation(row, *pair) for row, pair in zip(owner, pairs, strict=True)]
            else:
                contexts, asked = _with_shared_contexts(
                    [_shown(prompts[number], self.shots) for number in group.numbers], pairs
                )
            values = log_likelihoods(self.llm, contexts, asked, batch_size=batch_size or AT_ONCE[1])
            found |= dict(zip(group.numbers, values, strict=True))
        if cut:
            logger.warning("%d of %d prompts are cut in front to fit the LLM", cut, len(prompts))
        return [found[number] for number in range(len(prompts))]

    def generate(
        self,
        prompts: Sequence[Prompt | None],
        new_tokens: int,
        stops: Sequence[str],
        **options: Any,
    ) -> list[str]:
        """Return what the LLM writes after each prompt, until it has written one of `stops`.

        The text may go on after the stop. new_tokens: at most so many; options: of transformers'
        `generate`. What a prompt has too many of for the LLM's positions falls off in front.
        Raises UserError if there is no room for a prompt.
        """
        found: dict[int, str] = {}
        for group in self._groups(prompts, "generation"):
            queries = []
            for row, number in enumerate(group.numbers):
                context = group.contexts[group.owner[row]] if group.contexts else None
                queries.append(self._query(context, prompts[number], new_tokens))
            contexts, owner = TokenContexts([[]]), [0] * len(queries)
            if group.contexts:
                contexts, owner = joined(group.contexts, self.llm), group.owner
            elif self._is_pair:
                contexts, owner = self._encoded_text([prompts[number] for number in group.numbers])
            tokens = generate(
                self.llm,
                contexts,
                owner,
                queries,
                max_new_tokens=new_tokens,
                stop_strings=stops,
                **options,
            )
            texts = [self.llm.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
            found |= dict(zip(group.numbers, texts, strict=True))
        return [found[number] for number in range(len(prompts))]

    def _groups(self, prompts: Sequence[Prompt | None], what: str) -> Iterator[_Group]:
        """Yield the prompts in groups, each distinct set of demonstrations in one of them alone."""
        if self.context is not None and any(one.demonstrations for one in prompts if one):
            raise UserError(
                "a saved context is read instead of demonstrations: start the harness with "
                "--num_fewshot 0"
            )
        of_text: dict[tuple, list[int]] = {}
        of_vectors: dict[tuple, list[int]] = {}
        for number, prompt in enumerate(prompts):
            shown = _shown(prompt, self.shots)
            sets = of_vectors if self._reads_vectors(prompt, shown) else of_text
            sets.setdefault(shown, []).append(number)
        with tqdm(total=len(prompts), desc=f"mend: {what}") as bar:
            for sets in (of_vectors, of_text):
                for part in _parts(list(sets.items()), AT_ONCE[0]):
                    numbers = [number for _, members in part for number in members]
                    contexts, owner = [], []
                    if sets is of_vectors:
                        contexts = self._contexts([shown for shown, _ in part])
                        owner = [row for row, (_, members) in enumerate(part) for _ in members]
                    yield _Group(numbers, contexts, owner)
                    bar.update(len(numbers))

    def _reads_vectors(self, prompt: Prompt | None, shown: tuple) -> bool:
        if prompt is None:
            return False
        if self.method is None:
            return self.context is not None
        return bool(shown) or not self.method.built.reads_demonstrations

    def _contexts(self, sets: Sequence[tuple]) -> list[Context]:
        if self.context is not None or self.method is None:
            return [self.context] * len(sets)
        if not self.method.built.reads_demonstrations:
            return [self.method.distill("any")] * len(sets)
        rows = [[(one.input, one.output) for one in shown] for shown in sets]
        self.distilled += len(rows)
        try:
            return self.method.distill_many(rows)
        except UserError as error:
            made = self.method.distill_many(rows, truncate=True)
            logger.warning("%s. Here, what does not fit is left out", error)
            return made

    def _pair(
        self, context: Context | None, prompt: Prompt | None, continuation: str
    ) -> tuple[list[int], list[int]]:
        """Return the tokens before a continuation, and its own."""
        text = self._text(context, prompt)
        # Spaces at the end are the first of the continuation, so that words have their own tokens.
        before = self._encode(context, text.rstrip()) if text.strip() else []
        after = self._encode(context, text + continuation)[len(before) :]
        if before or context is not None:
            return before, after
        first = self._start()
        return (after[:1], after[1:]) if first and after[:1] == first else (first, after)

    def _query(self, context: Context | None, prompt: Prompt | None, new_tokens: int) -> list[int]:
        """Return the tokens of a prompt after its context, the last ones that there is room for."""
        text = self._text(context, prompt)
        tokens = self._encode(context, text) if text else []
        if not tokens and context is None:
            tokens = self._start()
        room = self.llm.max_positions - new_tokens - len(context or ())
        if room < 1:
            raise UserError(
                f"{new_tokens} new tokens leave no room for a prompt in the "
                f"{self.llm.max_positions} positions that the LLM reads; lower max_gen_toks "
                "(--gen_kwargs)"
            )
        return tokens[-room:]

    def _text(self, context: Context | None, prompt: Prompt | None) -> str:
        if prompt is None:
            return ""
        return prompt.text(0 if context is not None or self._is_pair else self.shots)

    def _encoded_text(self, prompts: Sequence[Prompt | None]) -> tuple[Contexts, list[int]]:
        """Return the demonstrations that an encoder reads as text, and which each prompt has."""
        sets: dict[tuple, int] = {}
        owner = [sets.setdefault(_shown(one, self.shots), len(sets)) for one in prompts]
        texts = ["".join(part for one in shown for part in one) for shown in sets]
        return TokenContexts([self._encode(None, text) for text in texts]), owner

    def _encode(self, context: Context | None, text: str) -> list[int]:
        if context is not None:
            return context.after(text)
        return list(self.llm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _start(self) -> list[int]:
        """Return the token that stands where nothing else comes before a continuation."""
        if self.llm.prefix or self.llm.has_start_token:
            return []
        tokenizer = self.llm.tokenizer
        return [one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None][
            :1
        ]


def _shown(prompt: Prompt | None, shots: int | None) -> tuple:
    return prompt.demonstrations[:shots] if prompt else ()


def _parts(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _with_shared_contexts(
    sets: Sequence[tuple], pairs: Sequence[tuple[list[int], list[int]]]
) -> tuple[Contexts, list[Continuation]]:
    """Return what prompts of each set have in common in front, and what comes after it.

    So a set that is read as text is read once, too.
    """
    members: dict[tuple, list[int]] = {}
    for number, shown in enumerate(sets):
        members.setdefault(shown, []).append(number)
    contexts: list[list[int]] = []
    made: dict[int, Continuation] = {}
    for row, numbers in enumerate(members.values()):
        common = commonprefix([pairs[number][0] for number in numbers])
        contexts.append(common)
        for number in numbers:
            before, after = pairs[number]
            made[number] = Continuation(row, before[len(common) :], after)
    return TokenContexts(contexts), [made[number] for number in range(len(pairs))]
