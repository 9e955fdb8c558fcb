"""The frozen large language model (LLM), behind one face for every architecture.

A method hands the LLM a `Contexts`, tokens or vectors. There are two ways through the LLM. `states`
is one plain forward pass over rows that hold a context and what comes after it, padded on the
right: under a causal mask that padding is seen by nobody, so that every architecture is right
without special cases. `prefill` and `states_after` read a context once for all that comes after
it, with its keys and values kept; `mend.models.verification` tries at loading whether an
architecture's cache can do that. Both return the hidden states that predict tokens, which become
logits, by the LLM's own head, only where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from mend.configuration.specs.run import LLMSource
from mend.configuration.specs.saved import ModelIdentity
from mend.errors import UserError
from mend.models.architecture import counts_from_the_start, keep_caps, max_positions, rope_switch
from mend.models.changes import blocks_of, linear_modules
from mend.models.contexts import (
    AdditionContexts,
    Changes,
    Contexts,
    KeyValueContexts,
    LowRankContexts,
    TokenContexts,
    VectorContexts,
)
from mend.models.fingerprint import fingerprint, identity
from mend.models.kernels.activations import fuse_activations
from mend.models.padding import indices, to_device

#: Logits, positions times vocabulary, that are in memory together: 256 MB of them.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Rows:
    """Texts after contexts.

    owner: for each row, whose context it comes after. inputs: the tokens after the context that are
    read alone; targets: those after them that are predicted, at least one a row. queries: how many
    of each row's targets belong to its query; none by default.
    """

    owner: Sequence[int]
    inputs: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    queries: Sequence[int] | None = None

    def __iter__(self) -> Iterator[tuple[int, Sequence[int], Sequence[int]]]:
        """Yield each row's owner, inputs and targets."""
        return zip(self.owner, self.inputs, self.targets, strict=True)


@dataclass
class Attentions:
    """Attention weights of what is read after a context.

    to_context: (layers, heads, n, context), without the LLM's prefix.
    to_tokens: (layers, heads, n, m), over what came after the context.
    Of a decoder-only LLM both are parts of one distribution; of an encoder-decoder each is one.
    """

    to_context: Tensor
    to_tokens: Tensor


class FrozenLLM:
    """What every LLM has in common; `mend.models.loading.frozen_llm` chooses the architecture.

    prefix: token ids that stand before every context (`llms.*.prefix`).
    positions: how many tokens the LLM can read in all, the prefix included.
    shares_contexts: whether `prefill` and `states_after` equal `states`, as far as was tried.
    takes_trees: whether tree attention does (`mend.models.kernels.tree_attention`).
    refuses_vectors: why the LLM cannot read vectors; None if it can.
    refuses_key_values: why it cannot read keys and values; None if it can.
    try_changes: returns why it does not read as low-rank weights and additions change it, if so.
    source: where it is from and how it was loaded, if `load_llm` did.
    """

    source: LLMSource | None = None

    #: Whether the LLM predicts a query's tokens as it reads them; else it only reads the query.
    predicts_query = True
    #: Whether something predicts the first token after nothing at all.
    has_start_token = False

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        dropout: bool = False,
        prefix: Sequence[int] = (),
    ) -> None:
        """Freeze `model`; `dropout` leaves its dropout on (`protocol.llm_dropout_in_training`)."""
        keep_caps(model)
        self.model = fuse_activations(model).requires_grad_(False).train(dropout)
        self.tokenizer, self.prefix = tokenizer, list(prefix)
        self.embedding = model.get_input_embeddings()
        self.body = body_of(model)
        # Rows are padded on the right without a mask: transformers would look for padding and warn.
        self.body.warn_if_padding_and_no_attention_mask = lambda *_, **__: None
        _put_head_in_float32(model)
        self.positions = max_positions(model.config)
        self.shares_contexts, self.takes_trees = False, True
        self.refuses_vectors: str | None = None
        self.refuses_key_values: str | None = "it was not tried"
        self.try_changes: Callable[[FrozenLLM], str | None] = lambda llm: "it was not tried"

    @property
    def logits_batch_size(self) -> int:
        """How many positions have their logits in memory together."""
        return max(1, LOGITS_AT_ONCE // self.embedding.weight.shape[0])

    @cached_property
    def fingerprint(self) -> str:
        """What weights and a teacher's states of this LLM know it by."""
        return fingerprint(self.model, self.tokenizer, self.predicts_query, self.prefix)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What saved methods and contexts know the model by, wherever it is."""
        return identity(self.model, self.tokenizer)

    @property
    def width(self) -> int:
        """Size of one word embedding, hence of one distilled vector."""
        return self.embedding.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the LLM's word embeddings live."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the vectors that the LLM reads."""
        return self.embedding.weight.dtype

    @property
    def max_positions(self) -> int:
        """How many tokens context, query and answer may have together: the prefix is taken off."""
        return self.positions - len(self.prefix)

    @cached_property
    def vocabulary(self) -> int:
        """How many tokens have an embedding of their own; a model may have rows of padding."""
        rows = self.embedding.weight.shape[0]
        return rows if self.tokenizer is None else min(rows, len(self.tokenizer))

    def token_context(self, sequences: Sequence[Sequence[int]]) -> TokenContexts:
        """Return the contexts made of tokens: each of `sequences` a list of token ids."""
        return TokenContexts(sequences)

    def vector_context(self, vectors: Tensor, lengths: Sequence[int] | None = None) -> Contexts:
        """Return the contexts made of vectors, (contexts, longest, width).

        lengths: how many vectors each context has, if not all; the rest is padding.
        Raises UserError for an LLM that cannot read vectors.
        """
        self.check_vectors()
        if lengths is None:
            lengths = [vectors.shape[1]] * len(vectors)
        return VectorContexts(vectors.to(self.device, self.dtype), lengths)

    def check_key_values(self) -> None:
        """Raise UserError if the LLM cannot read keys and values."""
        if self.refuses_key_values:
            raise UserError(
                f"llms: {self.model.config.model_type} cannot read keys and values, so methods "
                f"whose contexts are made of them do not work with it ({self.refuses_key_values})"
            )

    @cached_property
    def refuses_changes(self) -> str | None:
        """Why low-rank weights and additions cannot change how it reads; None if they can.

        Few methods need it, so it is tried when it is first asked for.
        """
        return self.try_changes(self)

    def check_changes(self) -> None:
        """Raise UserError if low-rank weights and additions cannot change how the LLM reads."""
        if self.refuses_changes:
            raise UserError(
                f"llms: {self.model.config.model_type} cannot be changed as it reads, so methods "
                "whose contexts are low-rank weights or additions do not work with it "
                f"({self.refuses_changes})"
            )

    def low_rank_context(
        self, down: Mapping[str, Tensor], up: Mapping[str, Tensor]
    ) -> LowRankContexts:
        """Return the contexts made of low-rank weights: see `LowRankContexts`.

        Raises UserError for an LLM that they cannot change, and for modules that it has not.
        """
        self.check_changes()
        sizes = linear_modules(self.model, [name.rpartition(".")[2] for name in down])
        for name, one in down.items():
            if sizes.get(name) != (one.shape[2], up[name].shape[1]):
                raise UserError(
                    f"llms: the LLM has no linear module {name} of {one.shape[2]} inputs and "
                    f"{up[name].shape[1]} outputs"
                )
        return LowRankContexts(self._as_weights(down), self._as_weights(up))

    def addition_context(self, vectors: Mapping[int, Tensor]) -> AdditionContexts:
        """Return the contexts made of additions to blocks' states: see `AdditionContexts`.

        Raises UserError for an LLM that they cannot change, and for blocks that it has not.
        """
        self.check_changes()
        count, width = len(blocks_of(self.body)), self.model.config.hidden_size
        for block, one in vectors.items():
            if not 0 <= block < count or one.shape[1] != width:
                raise UserError(
                    f"llms: the LLM has no block {block} of width {one.shape[1]}; its blocks are 0 "
                    f"to {count - 1}, of width {width}"
                )
        return AdditionContexts(self._as_weights(vectors))

    def _as_weights(self, tensors: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        return {name: tensor.to(self.device, self.dtype) for name, tensor in tensors.items()}

    def key_values(self, context: TokenContexts | VectorContexts) -> KeyValueContexts:
        """Return contexts as the keys and values that the LLM computes of them.

        Raises UserError for an LLM that cannot read them, and for a context of nothing at all.
        """
        self.check_key_values()
        raise NotImplementedError

    def attended_key_values(
        self, context: TokenContexts, window: int
    ) -> tuple[KeyValueContexts, list[Tensor]]:
        """Return contexts as keys and values, and how their last tokens attend to them.

        window: how many tokens those are; each context has more. The weights are, of each layer,
        (contexts, heads of queries, window, longest), padded on the left as the keys are.
        Raises UserError for an LLM that cannot read keys and values or returns no weights.
        """
        self.check_key_values()
        raise NotImplementedError

    def last_embeddings(self, sequences: Sequence[Sequence[int]], count: int) -> Tensor:
        """Return the embeddings of the last `count` tokens of each sequence, in float32.

        (sequences, count, width). A shorter sequence comes several times, and nothing at all is the
        end of a text.
        """
        end = getattr(self.tokenizer, "eos_token_id", None) or 0
        rows = []
        for tokens in sequences:
            tokens = list(tokens) or [end]
            rows.append((tokens * -(-count // len(tokens)))[-count:])
        return self.embedding(to_device(torch.tensor(rows), self.device)).float()

    def embeddings(
        self, contexts: Contexts, owner: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Return what each text is read with: prefix, its context and the text as vectors.

        owner: whose context each text comes after. Each is (positions, width).
        Raises UserError for contexts that are no vectors of the input.
        """
        if not isinstance(contexts, TokenContexts | VectorContexts):
            raise UserError(f"a context of {contexts.KIND} has no embeddings that could be read")
        rows = []
        for number, text in zip(owner, texts, strict=True):
            if isinstance(contexts, TokenContexts):
                row = [*self.prefix, *contexts.tokens[number], *text]
                rows.append(self.embedding(indices(row, self.device)))
                continue
            before, after = (
                self.embedding(indices(part, self.device)) for part in (self.prefix, text)
            )
            vectors = contexts.vectors[number, : contexts.lengths[number]]
            rows.append(torch.cat([before.to(vectors.dtype), vectors, after.to(vectors.dtype)]))
        return rows

    def check_vectors(self) -> None:
        """Raise UserError if the LLM cannot read vectors."""
        if self.refuses_vectors:
            raise UserError(
                f"llms: {self.model.config.model_type} cannot read vectors, so only methods whose "
                f"contexts are tokens work with it ({self.refuses_vectors})"
            )

    def states(
        self,
        context: Contexts,
        rows: Rows,
    ) -> Tensor:
        """Return the states that predict tokens, (rows, longest, width), by one plain pass.

        A state of a row's padding means nothing, nor does that of the first target where nothing
        at all comes before it.
        """
        raise NotImplementedError

    def prefill(self, context: Contexts) -> Any:
        """Compute each context's keys and values once; all contexts are empty, or none is."""
        raise NotImplementedError

    def states_after(self, prefilled: Any, rows: Rows) -> Tensor:
        """Return what `states` returns, after contexts that `prefill` read."""
        raise NotImplementedError

    def can_share(self, context: Contexts, sizes: Sequence[int]) -> bool:
        """Return whether a context can be read once for all rows of these sizes.

        sizes: the positions of each row, its context included.
        """
        if not self.shares_contexts or isinstance(context, Changes):
            return False
        if len(set(context.lengths)) > 1 and counts_from_the_start(self.model.config):
            return False
        if 0 in context.lengths and any(context.lengths) and not self.prefix:
            return False  # a row of nothing but padding attends to nothing
        switch = rope_switch(self.model.config)
        return not switch or max(sizes, default=0) + len(self.prefix) <= switch

    def text_attentions(self, context: Contexts, text: Sequence[int]) -> Attentions:
        """Return the attention of text after one context: n tokens."""
        raise NotImplementedError

    def query_attentions(self, context: Contexts, query: Sequence[int]) -> Attentions:
        """Return the attention of what predicts the first token after a query (n = 1)."""
        read = self.text_attentions(context, query)
        return Attentions(read.to_context[:, :, -1:], read.to_tokens[:, :, -1:])

    @contextmanager
    def attention_weights(self) -> Iterator[None]:
        """Let the model return attention weights; its faster attention never has them."""
        # An encoder and a decoder have settings of their own; transformers before 5.20 leaves them.
        parts = [part for part in self.model.modules() if isinstance(part, PreTrainedModel)]
        usual = [part.config._attn_implementation for part in parts]
        for part in parts:
            part.config._attn_implementation = "eager"  # a Falcon has no other way to set it
        try:
            yield
        finally:
            for part, attention in zip(parts, usual, strict=True):
                part.config._attn_implementation = attention

    def stacked(self, weights: Sequence[Tensor | None] | None) -> Tensor:
        """Stack layers' attention weights of one row into (layers, heads, n, m), in float32."""
        found = [layer for layer in weights or () if layer is not None]
        if not found:
            raise UserError(
                f"llms: {self.model.config.model_type} returns no attention weights here; leave "
                "the study attention out for it"
            )
        return torch.stack(found)[:, 0].float()

    def logits(self, states: Tensor) -> Tensor:
        """Return the vocabulary logits, (..., vocabulary), of hidden states, (..., width).

        They come from the model's own forward pass, with `states` in its body's place, so that its
        head's scales, caps and norms are all there; in float32.
        """
        flat = states.reshape(1, -1, states.shape[-1])
        with _stands_for(self.body, flat):
            logits = self._head(flat.shape[1])
        return logits.reshape(*states.shape[:-1], logits.shape[-1]).float()

    def _head(self, number: int) -> Tensor:
        """Return (1, number, vocabulary) logits of a forward pass whose body stands still."""
        ids = torch.zeros(1, number, dtype=torch.long, device=self.device)
        return self.model(input_ids=ids).logits


def predicting(states: Tensor, first: Sequence[int], rows: Rows) -> Tensor:
    """Gather the states that predict targets, (rows, longest, width), of (rows, n, width).

    first: where the first target of each row is predicted.
    """
    longest = max(map(len, rows.targets))
    places = torch.tensor(first)[:, None] + torch.arange(longest)
    places = places.clamp(0, states.shape[1] - 1)
    rows = torch.arange(len(states), device=states.device)[:, None]
    return states[rows, to_device(places, states.device)]


def body_of(model: torch.nn.Module) -> torch.nn.Module:
    """Return the part of a model whose last hidden states its head reads."""
    if model.config.is_encoder_decoder:
        return model.decoder
    # An OPT's head reads its decoder, around the model that it has as its base.
    for body in (model.get_decoder(), model.base_model):
        if body is not model and isinstance(body, PreTrainedModel):
            return body
    return next(child for child in model.children() if isinstance(child, PreTrainedModel))


class _Output(BaseModelOutputWithPastAndCrossAttentions):
    """A body's output that has nothing but hidden states, whatever is asked of it."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


@contextmanager
def _stands_for(body: torch.nn.Module, states: Tensor) -> Iterator[None]:
    """Let a body's forward pass return these states instead of computing any."""
    own = body.__dict__.get("forward")
    body.forward = lambda *_, **__: _Output(last_hidden_state=states)
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own


class _Float32Linear(torch.autograd.Function):
    """A product with frozen weights in 16 bits whose result is float32.

    A GPU multiplies in 16 bits and adds up in float32. Elsewhere a part of the weights is in
    float32 at a time: all of a vocabulary's would be the largest tensor of a query.
    """

    ROWS = 4096

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        """Return (..., vocabulary) of states, (..., width), and weights, (vocabulary, width)."""
        ctx.weight, ctx.dtype = weight, states.dtype
        if states.device.type == "cuda":
            flat = states.reshape(-1, states.shape[-1]).to(weight.dtype)
            found = torch.mm(flat, weight.T, out_dtype=torch.float32)
            return found.reshape(*states.shape[:-1], len(weight))
        states = states.float()
        result = states.new_empty(*states.shape[:-1], len(weight))
        start = 0
        for part in weight.split(_Float32Linear.ROWS):
            result[..., start : start + len(part)] = states @ part.float().T
            start += len(part)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the states."""
        if gradient.device.type == "cuda":
            return (gradient.to(ctx.weight.dtype) @ ctx.weight).to(ctx.dtype), None
        rows = _Float32Linear.ROWS
        parts = zip(gradient.split(rows, -1), ctx.weight.split(rows), strict=True)
        return sum(part @ weight.float() for part, weight in parts).to(ctx.dtype), None


class _Float32Head(torch.nn.Module):
    """A linear layer whose weights stay in 16 bits and whose logits are float32.

    16 bits leave logits of about 10 a spacing of 0.06, so that options tie.
    """

    def __init__(self, head: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, states: Tensor) -> Tensor:
        logits = _Float32Linear.apply(states, self.weight)
        return logits if self.bias is None else logits + self.bias.float()


def _put_head_in_float32(model: torch.nn.Module) -> None:
    head = model.get_output_embeddings()
    if type(head) is torch.nn.Linear and head.weight.dtype in (torch.float16, torch.bfloat16):
        model.set_output_embeddings(_Float32Head(head))
