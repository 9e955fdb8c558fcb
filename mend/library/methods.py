"""Methods of in-context learning as objects: they make contexts, score options and write text.

All have one face, so that a loop compares them: `distill` (whatever that is to a method), `score`,
`generate`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch

from mend.atomic_io import atomic_folder, read_json, write_json
from mend.configuration.methods import method_class
from mend.configuration.presets import fidelity, preset_value
from mend.configuration.settings import LARGEST_COUNT
from mend.configuration.specs.reading import ReadingSettings
from mend.configuration.specs.run import LLMSource, MethodSource, RunSpec
from mend.configuration.specs.saved import SavedMethod
from mend.data.items import MultipleChoiceItem
from mend.data.template import Template
from mend.errors import UserError
from mend.evaluation.grouping import GroupedMethod
from mend.evaluation.scoring import AT_ONCE, AT_ONCE_ON_GPU, score_items
from mend.library.card import method_card, scores_of
from mend.library.context import Context, check_text, digest, joined
from mend.library.folders import fetched, pushed
from mend.library.llms import llm_of
from mend.methods.built import BuiltMethod, build_method
from mend.methods.saved import DESCRIPTION, WEIGHTS, describe, load_method, read_description
from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM
from mend.models.generation import generate

#: Tokens that a processor distils at once.
PROCESSOR_TOKENS = 2048
#: What a training writes of itself; it goes along with the weights.
RECORD = "record.json"

Demonstration = str | tuple[str, str]
"""A pair of input and output, or a text."""

Demonstrations = str | Sequence[Demonstration]
"""One set of demonstrations; a text alone is a set of one."""


class ContextMethod:
    """A method of in-context learning with the frozen LLM that reads its contexts.

    llm: the frozen LLM. name: the method's in the configuration. template: how demonstrations,
    queries and options become tokens.
    """

    #: The one method that a class takes; any if it is empty.
    NAME: ClassVar[str] = ""

    def __init__(self, built: BuiltMethod) -> None:
        """Wrap a method that is built; `from_pretrained` does it for one that was trained."""
        if problem := self._refusal(built.name):
            raise UserError(f"{built.name}, {problem}; use mend.ContextMethod")
        self.built, self.llm, self.name = built.eval(), built.llm, built.name
        self.reading = built.reading
        self.template = Template(self.llm.tokenizer, self.reading, self.llm.max_positions)
        self._folder: Path | None = None
        self._scores: list[dict[str, Any]] = []
        self._llm_name = self.llm.source.name if self.llm.source else ""

    @classmethod
    def _refusal(cls, name: str) -> str | None:
        """Return why this class does not take a method; None if it does."""
        return f"which is no {cls.__name__}" if cls.NAME not in ("", name) else None

    @property
    def display_name(self) -> str:
        """How tables call the method."""
        return self.built.method.display_name

    def __repr__(self) -> str:
        """Say what it is."""
        path = self.llm.source.path if self.llm.source else "an LLM"
        return f"{type(self).__name__}({self.name}, for {path})"

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        llm: FrozenLLM | str | Path | None = None,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        **loading: Any,
    ) -> Self:
        """Load a trained method, and its frozen LLM if that is not given.

        path: the folder of a training of the workflow (`results/runs/.../finetune`), one that
        `save_pretrained` wrote, or a name on the hub. llm: the LLM that it was trained for, loaded
        or by its folder or name. loading: what `load_llm` takes (dtype, device, device_map,
        quantization_config, ...). revision: of the method on the hub.
        Raises UserError if there is none, if it is no method of this class, if the LLM is another
        one, if the folder is of a newer version, or damaged.
        """
        folder = fetched(path, revision, local_files_only)
        saved = read_description(folder, SavedMethod, "trained method")
        if problem := cls._refusal(saved.method.name):
            raise UserError(
                f"{folder}: it holds {saved.method.name}, {problem}; use mend.ContextMethod, which "
                "loads any method"
            )
        llm = llm_of(saved.llm, folder, llm, **loading)
        method = cls.__new__(cls)
        ContextMethod.__init__(method, load_method(folder, llm, saved))
        method._folder, method._scores = folder, saved.scores
        method._llm_name = saved.llm.name
        return method

    @classmethod
    def untrained(
        cls, name: str, llm: FrozenLLM, like: ContextMethod | None = None, **settings: Any
    ) -> ContextMethod:
        """Return a method that trains nothing, by its name in the configuration.

        like: a method whose template holds, so that both read the same; by default that of the
        preset `default`, with as long demonstrations as the LLM reads. settings: the method's own.
        Raises UserError for a method that is trained, and for settings that it has not.
        """
        if method_class(name).is_trained():
            raise UserError(f"{name} is trained; load it with from_pretrained")
        reading = default_reading(llm) if like is None else like.reading
        source = llm.source or LLMSource(name="llm", path="llm")
        run = RunSpec(
            llm=source, method=MethodSource(name=name, settings=settings), reading=reading
        )
        return ContextMethod(build_method(llm, run))

    def distill(
        self,
        demonstrations: Demonstrations,
        *,
        truncate: bool = False,
        group: int | None = None,
    ) -> Context:
        """Return the context that this method makes of one set of demonstrations.

        demonstrations: (input, output) pairs and texts, in the order that they are read in.
        truncate: cut, or leave out, what the method cannot read, as the template says
        (`protocol.demonstration_overflow`), instead of an error. group: distil so many at a time,
        and join their vectors: for more demonstrations than the distiller reads at once.
        Raises UserError for no demonstrations at all, for empty ones, and for more than fit.
        """
        return self.distill_many([demonstrations], truncate=truncate, group=group)[0]

    @torch.no_grad()
    def distill_many(
        self,
        sets: Sequence[Demonstrations],
        *,
        truncate: bool = False,
        group: int | None = None,
        batch_size: int | None = None,
    ) -> list[Context]:
        """Return the context of each of several sets of demonstrations, made in batches.

        batch_size: how many are made at once, which memory may lower; as many as the device gains
        by if it is not given. Otherwise as `distill`.
        """
        if isinstance(sets, str) or not isinstance(sets, Sequence):
            raise UserError("distill_many: give a list of sets; distill takes one")
        maker: BuiltMethod | GroupedMethod = self.built
        if group is not None:
            if type(group) is not int or group < 1:
                raise UserError(f"distill: group is {group!r}; it is a whole number of at least 1")
            maker = GroupedMethod(self.built)
        all_rows = [_rows(one) for one in sets]
        ids = [self._tokens(rows, truncate, group) for rows in all_rows]
        size = batch_size or (AT_ONCE_ON_GPU if self.llm.device.type == "cuda" else AT_ONCE)[0]
        contents = _in_batches(self.llm, maker, ids, size)
        made = []
        for rows, content in zip(all_rows, contents, strict=True):
            reads = self.built.reads_demonstrations
            shots, known = (len(rows), digest(rows)) if reads else (None, None)
            of = (self.name, shots, known, self.template)
            made.append(Context(self.llm, content, self.reading, *of))
        return made

    def _tokens(
        self, rows: Sequence[tuple[str, str | None]], truncate: bool, group: int | None
    ) -> list:
        """Return the token ids of demonstrations, in groups if they are asked for."""
        if not self.built.reads_demonstrations:
            return []
        limit = self.built.longest_context()
        if not self.built.distils:
            limit = min(limit, self.llm.max_positions)
        size = group or len(rows)
        parts = []
        for start in range(0, len(rows), size):
            shown = self.template.demonstrations(rows[start : start + size], limit)
            if (shown.cut or shown.left_out) and not truncate:
                which = (
                    f"{shown.left_out} of {len(rows[start : start + size])} do not fit the {limit} "
                    "tokens that are read"
                    if shown.left_out
                    else f"{shown.cut} are longer than the {self.reading.longest_example} tokens "
                    "that one may have (protocol.longest_example)"
                )
                raise UserError(
                    f"demonstrations {start + 1} to {min(start + size, len(rows))}: {which}; give "
                    "fewer or shorter ones, truncate=True to leave out what does not fit, or, if "
                    "they are distilled, group=N to distil N at a time"
                )
            if not shown.ids:
                raise UserError(
                    "of these demonstrations not one token can be read; give shorter ones"
                )
            parts.append(shown.ids)
        return parts if group else parts[0]

    def score(
        self,
        context: Context | Sequence[Context],
        queries: Sequence[str],
        options: Sequence[str] | Sequence[Sequence[str]],
        *,
        option_score: str = "mean",
    ) -> list[list[float]]:
        """Return the log-probability of each option after each query: higher is likelier.

        context: one for all queries, or one for each; whatever method made it, and read once.
        options: the same for all queries, or those of each. option_score: "mean" over an option's
        tokens, as the paper has it, or their "sum".
        Raises UserError for a context of another LLM, an option without tokens, and what does not
        fit the LLM.
        """
        if option_score not in ("mean", "sum"):
            raise UserError(f"score: option_score is {option_score!r}; it is 'mean' or 'sum'")
        contexts, owner, batch = self._asked(context, queries)
        each = _options_of(options, len(queries))
        items = [
            MultipleChoiceItem(
                number,
                [number],
                contexts[number].after(query),
                [self._option(contexts[number], option) for option in chosen],
            )
            for number, query, chosen in zip(owner, queries, each, strict=True)
        ]
        return score_items(self.llm, _Given(batch), items, option_score)

    @staticmethod
    def _option(context: Context, option: str) -> list[int]:
        check_text(option, "an option")
        return context.template.option(option)

    def generate(
        self, context: Context | Sequence[Context], queries: Sequence[str], **options: Any
    ) -> list[str]:
        """Return the text that the LLM writes after each query; the new text alone.

        context: as in `score`. options: whatever `generate` of transformers takes (max_new_tokens,
        do_sample, stop_strings, a streamer for one query, ...); see `mend.models.generation`.
        Raises UserError for a context of another LLM, what does not fit, and what is refused.
        """
        contexts, owner, batch = self._asked(context, queries)
        texts = [
            contexts[number].prompt(query) for number, query in zip(owner, queries, strict=True)
        ]
        found = generate(self.llm, batch, owner, texts, **options)
        return [self.llm.tokenizer.decode(ids, skip_special_tokens=True) for ids in found]

    def _asked(
        self, context: Context | Sequence[Context], queries: Sequence[str]
    ) -> tuple[list[Context], list[int], Contexts]:
        """Return the contexts, which of them each query comes after, and all as one batch."""
        if isinstance(queries, str) or not isinstance(queries, Sequence) or not queries:
            raise UserError("queries: give a list of texts, at least one")
        if not isinstance(context, Sequence) or isinstance(context, str):
            contexts, owner = [context], [0] * len(queries)
        else:
            contexts, owner = list(context), list(range(len(queries)))
            if len(contexts) != len(queries):
                raise UserError(
                    f"{len(contexts)} contexts and {len(queries)} queries; give one context, or "
                    "one for each query"
                )
        return contexts, owner, joined(contexts, self.llm)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        scores: str | Path | None = None,
        base_model: str | None = None,
        licence: str | None = None,
    ) -> None:
        """Write a folder that `from_pretrained` reads anywhere, with a model card.

        scores: a study's table (`results/table2.csv`), whose rows of this LLM and method go into
        the card. base_model: the name on the hub of the LLM, where it was loaded from a folder.
        licence: of the weights, an identifier that the hub knows.
        Raises UserError if the method trains nothing, or there is a folder with something else.
        """
        if not self.built.method.is_trained():
            raise UserError(f"{self.name} trains nothing, so there is nothing to save of it")
        record = self._folder / RECORD if self._folder else None
        training = read_json(record) if record and record.is_file() else {}
        given = self._scores
        if scores is not None:
            partition = training.get("partition") if training.get("stage") == "finetune" else None
            given = scores_of(scores, self.name, self._llm_name, partition)
        saved = describe(self.built, given)
        named = saved.llm.model_copy(update={"name": self._llm_name or saved.llm.name})
        saved = saved.model_copy(update={"llm": named})
        if base_model is not None:
            renamed = saved.llm.model_copy(update={"path": base_model, "revision": None})
            saved = saved.model_copy(update={"llm": renamed})
        with atomic_folder(folder) as temporary:
            self.built.save(temporary / WEIGHTS)
            write_json(saved.model_dump(mode="json"), temporary / DESCRIPTION)
            if training:
                shutil.copyfile(record, temporary / RECORD)
            card = method_card(saved, training, licence)
            (temporary / "README.md").write_text(card, encoding="utf-8")

    def push_to_hub(
        self,
        name: str,
        *,
        scores: str | Path | None = None,
        base_model: str | None = None,
        licence: str | None = None,
        private: bool | None = None,
        **options: Any,
    ) -> str:
        """Save it as a repository of the Hugging Face hub, and return the commit's address.

        options: token, revision, and what else `upload_folder` of huggingface_hub takes; the others
        as in `save_pretrained`. Raises UserError if the LLM is a folder of this machine, which
        nobody else has, if the hub refuses it, or cannot be reached.
        """
        source = self.llm.source
        if base_model is None and (source is None or Path(source.path).exists()):
            raise UserError(
                f"push_to_hub: the LLM was loaded from the folder {source and source.path!r}, "
                "which others do not have; name it on the hub with base_model=..."
            )
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "method"
            self.save_pretrained(folder, scores=scores, base_model=base_model, licence=licence)
            return pushed(folder, name, f"Upload {self.display_name}", private, **options)


class Distiller(ContextMethod):
    """A trained distiller, MEND's or another that distils, with its frozen LLM.

    `distill` turns demonstrations into l vectors.
    """

    @classmethod
    def _refusal(cls, name: str) -> str | None:
        """Return why a method is no distiller; None if it is."""
        return None if method_class(name).distils else "which does not distil"


class PromptTuning(ContextMethod):
    """A trained prompt: `distill` gives it whatever the demonstrations are."""

    NAME = "prompt-tuning"


class _Untrained(ContextMethod):
    """A method that trains nothing: an LLM is all it needs."""

    def __init__(self, llm: FrozenLLM, like: ContextMethod | None = None) -> None:
        """Make it for an LLM.

        like: a method whose template holds, so that both read the same; by default that of the
        configuration's preset `default`, with as long demonstrations as the LLM reads.
        """
        super().__init__(self.untrained(self.NAME, llm, like).built)


class VanillaICL(_Untrained):
    """Vanilla in-context learning: a context is the demonstrations' own tokens."""

    NAME = "vanilla-icl"


class ZeroShot(_Untrained):
    """No context: the LLM reads the query alone."""

    NAME = "zero-shot"


def default_reading(llm: FrozenLLM) -> ReadingSettings:
    """Return how rows become tokens by default, as long as the LLM can read.

    A quarter of its positions is left to query and answer.
    """
    known = fidelity()
    values = {name: preset_value(known[name], "default") for name in ReadingSettings.model_fields}
    longest = max(4, min(llm.max_positions, LARGEST_COUNT) * 3 // 4)
    values["longest_context"] = {"llm": longest, "distiller": longest}
    return ReadingSettings(**values | {"longest_example": longest})


class _Given:
    """Contexts that are made already, in a method's place: `demonstrations` are their numbers."""

    training = False

    def __init__(self, batch: Contexts) -> None:
        self.batch = batch

    def train(self, mode: bool = True) -> None:
        """Leave everything as it is."""

    def eval(self) -> None:
        """Leave everything as it is."""

    def contexts(self, llm: FrozenLLM, demonstrations: Sequence[Sequence[int]]) -> Contexts:
        """Return the contexts of these numbers."""
        return self.batch.select([number for (number,) in demonstrations])


def _rows(demonstrations: Demonstrations) -> list[tuple[str, str | None]]:
    """Return one set of demonstrations as rows; raises UserError for what is none."""
    if isinstance(demonstrations, str):
        demonstrations = [demonstrations]
    if not isinstance(demonstrations, Sequence):
        raise UserError(
            f"demonstrations are a {type(demonstrations).__name__}; give a text, or a list of "
            "(input, output) pairs and texts"
        )
    rows = []
    for number, one in enumerate(demonstrations, start=1):
        row = (one, None) if isinstance(one, str) else tuple(one) if _is_pair(one) else None
        if row is None:
            raise UserError(
                f"demonstration {number}: {str(one)[:60]!r} is neither a text nor a pair of texts "
                "(input, output)"
            )
        for part in filter(None, row):
            check_text(part, f"demonstration {number}")
        if not any(part and part.strip() for part in row):
            raise UserError(f"demonstration {number} is empty; leave it out")
        rows.append(row)
    if not rows:
        raise UserError("no demonstrations were given; for none at all there is mend.ZeroShot")
    return rows


def _is_pair(one: Any) -> bool:
    is_list = isinstance(one, tuple | list) and len(one) == 2
    return is_list and all(isinstance(part, str) for part in one)


def _options_of(options: Any, queries: int) -> list[Sequence[str]]:
    """Return the options of each query."""
    if isinstance(options, str) or not isinstance(options, Sequence) or not options:
        raise UserError("options: give a list of texts, or one such list for each query")
    shared = all(isinstance(option, str) for option in options)
    each = [options] * queries if shared else list(options)
    if len(each) != queries:
        raise UserError(f"{queries} queries, and options of {len(each)}; give those of each query")
    for number, chosen in enumerate(each, start=1):
        if isinstance(chosen, str) or not isinstance(chosen, Sequence) or not chosen:
            raise UserError(f"query {number} has no list of options")
    return each


def _in_batches(
    llm: FrozenLLM, method: BuiltMethod | GroupedMethod, ids: list, size: int
) -> list[Contexts]:
    """Return a batch of one for each sequence of tokens, made in batches of similar length."""

    def tokens(number: int) -> int:
        return sum(1 if isinstance(part, int) else len(part) for part in ids[number])

    left = sorted(range(len(ids)), key=tokens)
    found: dict[int, Contexts] = {}
    while left:
        part = left[:size]
        if llm.device.type == "cpu":
            # Of more than fit its cache a processor makes no more in a second.
            longest = tokens(left[0]) + (method.context_length or 0)
            part = part[: max(1, PROCESSOR_TOKENS // max(1, longest))]
        try:
            batch = method.contexts(llm, [ids[number] for number in part])
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError(
                    "memory ran out while one set of demonstrations was distilled; give fewer, or "
                    "group=N to distil N at a time"
                ) from None
            size = max(1, min(size, len(part)) // 2)
            continue
        for row, number in enumerate(part):
            found[number] = batch.select([row])
        left = left[len(part) :]
    return [found[number] for number in range(len(ids))]
