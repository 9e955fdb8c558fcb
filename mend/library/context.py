"""A context: what an LLM reads instead of demonstrations, to be kept, shared and served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mend.atomic_io import atomic_folder, write_json
from mend.configuration.specs.reading import ReadingSettings
from mend.configuration.specs.saved import FORMAT, SavedContext
from mend.data.template import Template
from mend.errors import UserError
from mend.library.card import context_card
from mend.library.folders import fetched, pushed
from mend.library.llms import llm_of
from mend.methods.saved import DESCRIPTION, MADE_WITH, describe_llm, read_description
from mend.models.contexts import (
    AdditionContexts,
    Changes,
    Contexts,
    KeyValueContexts,
    LowRankContexts,
    TokenContexts,
    VectorContexts,
)
from mend.models.frozen_llm import FrozenLLM
from mend.models.tensor_files import TensorFile, save_tensors

#: PEFT's names of an adapter's file, a prompt's tensor and the configuration.
ADAPTER_FILE, PROMPT, PEFT_CONFIGURATION = (
    "adapter_model.safetensors",
    "prompt_embeddings",
    "adapter_config.json",
)
#: PEFT's names of a module's low-rank weights, A and B.
LORA = "base_model.model.{}.lora_{}.weight"
#: Contexts that PEFT does not have.
TOKENS_FILE, TOKENS = "tokens.safetensors", "input_ids"
KEY_VALUES_FILE = "key_values.safetensors"
ADDITIONS_FILE, ADDITION = "additions.safetensors", "block.{}"
KINDS = {
    TokenContexts: "tokens",
    VectorContexts: "vectors",
    KeyValueContexts: "key-values",
    LowRankContexts: "low-rank",
    AdditionContexts: "additions",
}
FILES = {
    "tokens": TOKENS_FILE,
    "vectors": ADAPTER_FILE,
    "key-values": KEY_VALUES_FILE,
    "low-rank": ADAPTER_FILE,
    "additions": ADDITIONS_FILE,
}


class Context:
    """What one LLM reads before queries in place of demonstrations, or what changes it.

    A method makes it (`Distiller.distill`); it scores and generates by any method's `score` and
    `generate`, and is saved as a folder that knows its LLM.

    llm: the frozen LLM that reads it. template: how queries and options become tokens. content: it
    alone, as a batch of one. method: the name of what made it. shots: K, how many demonstrations it
    stands for; None if it reads none. demonstrations: a digest of them.
    """

    def __init__(
        self,
        llm: FrozenLLM,
        content: Contexts,
        reading: ReadingSettings,
        method: str,
        shots: int | None = None,
        demonstrations: str | None = None,
        template: Template | None = None,
    ) -> None:
        """Keep what a method made.

        template: how queries and options become tokens; made of `reading` if nobody has one, whose
        tokens of texts that come again are kept.
        """
        self.template = template or Template(llm.tokenizer, reading, llm.max_positions)
        self.llm, self.content, self.reading = llm, content, reading
        self.method, self.shots, self.demonstrations = method, shots, demonstrations

    def __len__(self) -> int:
        """How many positions the LLM reads it in, without the prefix of every context."""
        return self.content.lengths[0]

    def __bool__(self) -> bool:
        """Always true: an empty context is one, too."""
        return True

    def __repr__(self) -> str:
        """Say what it is."""
        content = self.content
        what = f"{len(self)} {content.KIND}"
        if isinstance(content, LowRankContexts):
            what = f"{content.KIND} of {len(content.down)} modules"
        elif isinstance(content, AdditionContexts):
            what = f"{content.KIND} after block {', '.join(map(str, content.vectors))}"
        of = "" if self.shots is None else f" for {self.shots} demonstrations"
        return f"Context({self.method}: {what}{of})"

    def after(self, query: str) -> list[int]:
        """Return a query's token ids after this context, with the separator between them."""
        check_text(query, "a query")
        is_context = len(self) > 0 or isinstance(self.content, Changes)
        return self.template.whole_query(query, after_context=is_context)

    def prompt(self, query: str) -> list[int]:
        """Return the token ids after which an answer to a query is written.

        They are the query's, and the separator before outputs as far as it is no space.
        """
        return [*self.after(query), *self.template.answer_start()]

    def prompt_embeds(self, query: str | None = None) -> Tensor:
        """Return what a server takes as prompt embeddings: (positions, width), on the CPU.

        That is the LLM's prefix, this context and, if given, the query with its separators. For a
        T5 that reads queries in its decoder it is what the encoder reads, without the query.
        Raises UserError for what the LLM has no room for.
        """
        text = [] if query is None else self.prompt(query)
        if text and self.llm.model.config.is_encoder_decoder and self.llm.predicts_query:
            raise UserError(
                "prompt_embeds: this LLM reads queries in its decoder; call it without a query, "
                "and give the query to the decoder as tokens"
            )
        if len(self) + len(text) > self.llm.max_positions:
            raise UserError(
                f"prompt_embeds: a context of {len(self)} positions and a query of {len(text)} "
                f"tokens do not fit the {self.llm.max_positions} that the LLM reads"
            )
        return self.llm.embeddings(self.content, [0], [text])[0].detach().cpu()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that any place can load, all of it or nothing.

        Vectors are a PEFT folder of prompt tuning with the LLM's prefix as its first rows, and
        `mend.json`; low-rank weights one of LoRA. Tokens are safetensors of their ids, keys and
        values of each layer's, additions of each block's.
        Raises UserError if there is a folder with something else in it.
        """
        kind = KINDS[type(self.content)]
        saved = SavedContext(
            format=FORMAT,
            kind="context",
            made_with=MADE_WITH,
            llm=describe_llm(self.llm),
            method=self.method,
            content=kind,
            positions=len(self),
            shots=self.shots,
            demonstrations=self.demonstrations,
            reading=self.reading,
        )
        identity = {"kind": "context", "method": self.method, "positions": len(self)}
        with atomic_folder(folder) as temporary:
            if kind == "tokens":
                ids = torch.tensor(list(self.content.tokens[0]), dtype=torch.long)
                save_tensors({TOKENS: ids}, temporary / TOKENS_FILE, identity)
            elif kind == "key-values":
                identity |= {"ends at": self.content.positions[0], "prefix": self.content.prefix}
                save_tensors(_layers(self.content), temporary / KEY_VALUES_FILE, identity)
            elif kind == "additions":
                save_tensors(_added(self.content), temporary / ADDITIONS_FILE, identity)
            elif kind == "low-rank":
                save_tensors(_lora(self.content), temporary / ADAPTER_FILE, identity)
                write_json(self._lora_configuration(), temporary / PEFT_CONFIGURATION)
            else:
                save_tensors({PROMPT: self.prompt_embeds()}, temporary / ADAPTER_FILE, identity)
                write_json(self._prompt_configuration(), temporary / PEFT_CONFIGURATION)
            write_json(saved.model_dump(mode="json"), temporary / DESCRIPTION)
            (temporary / "README.md").write_text(context_card(saved), encoding="utf-8")

    def _peft_configuration(self, kind: str) -> dict[str, Any]:
        """Return what each configuration of PEFT says."""
        is_pair = self.llm.model.config.is_encoder_decoder
        return {
            "peft_type": kind,
            "task_type": "SEQ_2_SEQ_LM" if is_pair else "CAUSAL_LM",
            "base_model_name_or_path": self.llm.source.path,
            "revision": self.llm.source.revision,
            "inference_mode": True,
        }

    def _lora_configuration(self) -> dict[str, Any]:
        down = self.content.down
        ranks = {name: one.shape[1] for name, one in down.items()}
        rank = max(ranks.values())
        # Each is PEFT's alpha / r = 1.
        others = {name: each for name, each in ranks.items() if each != rank}
        modules = [self.llm.model.get_submodule(name) for name in down]
        return self._peft_configuration("LORA") | {
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(down),
            "fan_in_fan_out": not any(isinstance(one, torch.nn.Linear) for one in modules),
        }

    def _prompt_configuration(self) -> dict[str, Any]:
        config = self.llm.model.config
        return self._peft_configuration("PROMPT_TUNING") | {
            "num_virtual_tokens": len(self.llm.prefix) + len(self),
            "token_dim": self.llm.width,
            "num_transformer_submodules": 1,
            "num_attention_heads": config.num_attention_heads,
            "num_layers": config.num_hidden_layers,
            "prompt_tuning_init": "RANDOM",
        }

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        llm: FrozenLLM | str | Path | None = None,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        **loading: Any,
    ) -> Context:
        """Load a context from a folder, or from the hub.

        llm: the LLM that it was made for, loaded or by its folder or name; None loads it from where
        it was. loading: what `load_llm` takes. revision: of the context on the hub.
        Raises UserError if there is no context, if it is of another LLM, revision or tokenizer, of
        a newer version, or damaged.
        """
        folder = fetched(path, revision, local_files_only)
        saved = read_description(folder, SavedContext, "context")
        llm = llm_of(saved.llm, folder, llm, **loading)
        of_tokens = saved.content == "tokens"
        file = TensorFile(folder / FILES[saved.content], "a context")
        file.check({"kind": "context", "method": saved.method, "positions": saved.positions})
        others = {"key-values": _key_values, "low-rank": _low_rank, "additions": _additions}
        if saved.content in others:
            content = others[saved.content](file, saved, llm)
            kept = (saved.method, saved.shots, saved.demonstrations)
            return cls(llm, content, saved.reading, *kept)
        name = TOKENS if of_tokens else PROMPT
        before = 0 if of_tokens else len(llm.prefix)
        shape = [before + saved.positions, *([] if of_tokens else [llm.width])]
        if file.names != [name] or file.shape(name) != shape:
            raise file.refuse(f"it has not one tensor {name} of shape {shape}")
        tensor = file[name]
        if of_tokens:
            ids = tensor.tolist()
            if tensor.dtype != torch.long or not all(0 <= one < llm.vocabulary for one in ids):
                raise file.refuse("it holds numbers that are no tokens of the LLM")
            content = llm.token_context([ids])
        else:
            content = llm.vector_context(tensor[None, before:])
        return cls(llm, content, saved.reading, saved.method, saved.shots, saved.demonstrations)

    def push_to_hub(self, name: str, *, private: bool | None = None, **options: Any) -> str:
        """Save it as a repository of the Hugging Face hub, and return the commit's address.

        options: token, revision, and what else `upload_folder` of huggingface_hub takes.
        Raises UserError if the hub refuses it, or cannot be reached.
        """
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "context"
            self.save_pretrained(folder)
            return pushed(folder, name, f"Upload a context ({self.method})", private, **options)


def _layers(content: KeyValueContexts) -> dict[str, Tensor]:
    """Return keys and values by name, each (heads, positions, size of a head)."""
    tensors = {} if content.last_state is None else {"last_state": content.last_state[0]}
    for layer, (keys, values) in enumerate(zip(content.keys, content.values, strict=True)):
        tensors |= {f"keys.{layer}": keys[0], f"values.{layer}": values[0]}
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _key_values(file: TensorFile, saved: SavedContext, llm: FrozenLLM) -> KeyValueContexts:
    """Return the keys and values of a file; raises UserError for those of no such LLM."""
    llm.check_key_values()
    like = llm.key_values(llm.token_context([[0]]))
    known = _layers(like)
    if set(file.names) - {"last_state"} != set(known) - {"last_state"}:
        raise file.refuse("it has not the keys and values of each of the LLM's layers")
    tensors = {}
    for name in file.names:
        shape = list(known[name].shape)
        shape[-2] = 1 if name == "last_state" else saved.positions
        if file.shape(name) != shape:
            raise file.refuse(f"{name} is not of shape {shape}")
        tensors[name] = file[name].to(llm.device, llm.dtype)[None]
    ends, prefix = (file.identity.get(key) for key in ("ends at", "prefix"))
    if type(ends) is not int or ends < saved.positions or prefix != len(llm.prefix):
        raise file.refuse("it does not say where the token after it stands")
    keys, values = (
        [tensors[f"{name}.{layer}"] for layer in range(len(like.keys))]
        for name in ("keys", "values")
    )
    state = tensors.get("last_state")
    return KeyValueContexts(keys, values, [saved.positions], [ends], prefix, state)


def _lora(content: LowRankContexts) -> dict[str, Tensor]:
    """Return low-rank weights by PEFT's names, (rank, in) and (out, rank)."""
    tensors = {LORA.format(name, "A"): one[0] for name, one in content.down.items()}
    tensors |= {LORA.format(name, "B"): one[0] for name, one in content.up.items()}
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _low_rank(file: TensorFile, saved: SavedContext, llm: FrozenLLM) -> LowRankContexts:
    """Return the low-rank weights of a file; raises UserError for those of no such LLM."""
    before, after = LORA.format("", "A").split("..")
    names = [name[len(before) + 1 : -len(after) - 1] for name in file.names if name.endswith(after)]
    if set(file.names) != {LORA.format(name, part) for name in names for part in "AB"} or not names:
        raise file.refuse("it has not an A and a B of each module")
    parts = [{name: file[LORA.format(name, part)][None] for name in names} for part in "AB"]
    for name in names:
        a, b = parts[0][name], parts[1][name]
        if not a.dim() == b.dim() == 3 or a.shape[1] != b.shape[2]:
            raise file.refuse(f"{name} has an A and a B that do not fit")
    try:
        return llm.low_rank_context(*parts)
    except UserError as error:
        raise file.refuse(str(error)) from None


def _added(content: AdditionContexts) -> dict[str, Tensor]:
    """Return additions by their blocks, (width,) each."""
    return {ADDITION.format(block): one[0].cpu() for block, one in content.vectors.items()}


def _additions(file: TensorFile, saved: SavedContext, llm: FrozenLLM) -> AdditionContexts:
    """Return the additions of a file; raises UserError for those of no such LLM."""
    blocks = {name.removeprefix(ADDITION.format("")): name for name in file.names}
    if not blocks or not all(block.isdecimal() for block in blocks):
        raise file.refuse("it has not a vector for each block")
    vectors = {int(block): file[name][None] for block, name in blocks.items()}
    if any(one.dim() != 2 for one in vectors.values()):
        raise file.refuse("it has not a vector for each block")
    try:
        return llm.addition_context(vectors)
    except UserError as error:
        raise file.refuse(str(error)) from None


def check_text(text: Any, what: str) -> None:
    """Raise UserError unless something is a text that can be tokenized."""
    if not isinstance(text, str):
        raise UserError(f"{what} is a {type(text).__name__}; give a text")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(
            f"{what} holds half of a surrogate pair, which is no character: {text[:60]!r}"
        )


def joined(contexts: Sequence[Context], llm: FrozenLLM) -> Contexts:
    """Return several contexts as one batch of their LLM.

    Raises UserError for one of another LLM, or where tokens and vectors are mixed.
    """
    for context in contexts:
        if not isinstance(context, Context):
            raise UserError(
                f"a context is a {type(context).__name__}; give what distill returned, or "
                "Context.from_pretrained"
            )
        if context.llm is not llm and context.llm.fingerprint != llm.fingerprint:
            raise UserError(f"{context!r} was made for another LLM than the one that is to read it")
    kinds = {type(context.content) for context in contexts}
    if len(kinds) > 1:
        found = " and of ".join(sorted(KINDS[kind] for kind in kinds))
        raise UserError(f"contexts of {found} are mixed; ask for each kind by itself")
    return kinds.pop().join([context.content for context in contexts])


def digest(demonstrations: Any) -> str:
    """Return a digest of demonstrations, the same wherever they are."""
    import hashlib

    text = json.dumps(demonstrations, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
