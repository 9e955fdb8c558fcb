"""Whether the ways through a model give what one plain pass of it gives, tried at loading.

Architectures differ in what they do with padding, caches, masks and vectors. Instead of a list of
those that are right, every model shows it: a few short rows, read our way, are compared with plain
passes of the model itself, one row at a time. What must be right and is not is refused by name;
what is only speed (a context read once for many queries) is then left out. Scoring compares again,
on rows of its own (`mend.evaluation.scoring`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from mend.errors import UserError, first_line
from mend.models.architecture import max_positions, rope_switch, takes
from mend.models.causal import causal_states
from mend.models.changes import QUERIES_AND_VALUES, blocks_of, linear_modules
from mend.models.contexts import AdditionContexts, Changes, Contexts, LowRankContexts
from mend.models.decoder_only import DecoderOnlyLLM
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.progress import logger

#: Contexts of different lengths; whose each row is, what it reads alone, and what is predicted.
_CONTEXTS = (7, 4)
_ROWS = ((0, 3, 2), (1, 5, 1), (0, 1, 3))


def has_weights(model: torch.nn.Module) -> bool:
    """Return whether a model's weights are numbers: not a model of shapes alone."""
    weight = model.get_input_embeddings().weight
    return weight.device.type != "meta" and type(weight.data) is Tensor


@torch.no_grad()
def verify_llm(llm: FrozenLLM) -> None:
    """Compare an LLM's rows with plain passes, and note what it can do.

    Raises UserError, naming the architecture, if rows of tokens come out differently.
    """
    name = llm.model.config.model_type
    training = llm.model.training
    llm.model.eval()
    contexts, rows = _rows(llm.vocabulary, _longest(llm))
    try:
        expected = _plain(llm, contexts, rows)
    except Exception as error:  # whatever an architecture raises
        raise UserError(
            f"llms: {name} cannot be used: it stops at a short text ({first_line(error)})"
        ) from error
    tokens = llm.token_context(contexts)
    problem = _compared(lambda: llm.logits(llm.states(tokens, rows)), expected, llm.dtype)
    if problem:
        raise UserError(
            f"llms: {name} cannot be used: rows of several lengths, read together, are not what "
            f"the model makes of each alone ({problem}). Encoder-only models, and those that look "
            "ahead, cannot predict text"
        )
    llm.refuses_vectors = _problem_of_vectors(llm, contexts, rows, expected)
    problem = _compared(
        lambda: llm.logits(llm.states_after(llm.prefill(tokens), rows)),
        expected,
        llm.dtype,
    )
    llm.shares_contexts = problem is None
    llm.refuses_key_values = problem or _problem_of_key_values(llm, tokens, rows, expected)
    llm.try_changes = partial(_problem_of_changes, rows)
    if problem:
        logger.info("%s: contexts are read again for each query (%s)", name, problem)
    llm.model.train(training)


def _longest(llm: FrozenLLM) -> int:
    """How many tokens a row may have; rows on both sides of a switch are no matter here."""
    return min(llm.max_positions, rope_switch(llm.model.config) or llm.max_positions)


def _rows(vocabulary: int, longest: int) -> tuple[list[list[int]], Rows]:
    """Return contexts, and rows after them."""
    generator = torch.Generator().manual_seed(0)

    def words(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()

    contexts = [words(length) for length in _CONTEXTS]
    owner = [row[0] for row in _ROWS]
    inputs = [words(row[1]) for row in _ROWS]
    targets = [words(row[2]) for row in _ROWS]
    if longest < max(_CONTEXTS) + 6:  # a very short model
        contexts, inputs = [one[:1] for one in contexts], [one[:1] for one in inputs]
    return contexts, Rows(owner, inputs, targets)


def _as_vectors(llm: FrozenLLM, contexts: Sequence[Sequence[int]]) -> Contexts:
    """Return the contexts' tokens as the vectors that the LLM reads for them."""
    llm.refuses_vectors = None
    words = [llm.embedding(torch.tensor(tokens, device=llm.device)) for tokens in contexts]
    vectors = torch.nn.utils.rnn.pad_sequence(words, batch_first=True)
    return llm.vector_context(vectors, [len(one) for one in words])


def _problem_of_vectors(
    llm: FrozenLLM,
    contexts: Sequence[Sequence[int]],
    rows: Rows,
    expected: Sequence[Tensor],
) -> str | None:
    """Return why vectors are not read as words are, or those that are no words not at all."""

    def of_words() -> Tensor:
        return llm.logits(llm.states(_as_vectors(llm, contexts), rows))

    def of_others() -> Tensor:
        context = _as_vectors(llm, contexts)
        # Between two words: an LLM that looks tokens up again finds none.
        between = (context.vectors + context.vectors.roll(1, 1)) / 2
        mixed = llm.vector_context(between, context.lengths)
        return llm.logits(llm.states(mixed, rows))

    problem = _compared(of_words, expected, llm.dtype)
    if problem:
        return problem
    try:
        finite = bool(of_others().isfinite().all())
    except Exception as error:  # whatever an architecture raises at what it does not know
        return first_line(error)
    return None if finite else "logits are not finite"


def _problem_of_key_values(
    llm: FrozenLLM, tokens: Contexts, rows: Rows, expected: Sequence[Tensor]
) -> str | None:
    """Return why an LLM does not go on from keys and values as from the tokens that they are of."""
    if not isinstance(llm, DecoderOnlyLLM):
        return "its encoder reads contexts"
    if not takes(llm.body, "position_ids") or getattr(llm.model.config, "alibi", False):
        return "it counts positions by its cache, which may have lost some"
    if rope_switch(llm.model.config):
        return "it rotates all positions otherwise in longer rows"
    if any(type(layer) is not DynamicLayer for layer in llm.prefill(tokens).cache.layers):
        return "some of its layers keep something else"
    llm.refuses_key_values = None

    def after() -> Tensor:
        return llm.logits(llm.states(llm.key_values(tokens), rows))

    return _compared(after, expected, llm.dtype)


@torch.no_grad()
def _problem_of_changes(rows: Rows, llm: FrozenLLM) -> str | None:
    """Return why low-rank weights and additions do not change an LLM's rows, and those alone."""
    if not isinstance(llm, DecoderOnlyLLM):
        return "they change decoder-only LLMs alone"
    if takes(llm.body, "use_cache") and not takes(llm.body, "past_key_values"):
        return "it keeps something else than keys and values"
    if rope_switch(llm.model.config):
        return "it rotates all positions otherwise in longer rows"
    llm.refuses_changes, training = None, llm.model.training

    def wave(size: int) -> Tensor:
        """Return numbers for two contexts, (2, size), of which the second changes nothing."""
        numbers = torch.arange(size, device=llm.device).cos().to(llm.dtype)
        return torch.stack([numbers, numbers * 0])

    sizes = linear_modules(llm.model, QUERIES_AND_VALUES)
    llm.model.eval()
    try:
        count = len(blocks_of(llm.body))
        tried: list[Changes] = [AdditionContexts({count // 2: wave(llm.model.config.hidden_size)})]
        if sizes:
            down = {name: wave(inputs)[:, None] for name, (inputs, _) in sizes.items()}
            up = {name: wave(outputs)[..., None] for name, (_, outputs) in sizes.items()}
            tried.append(LowRankContexts(down, up))
        nothing = llm.token_context([[], []])
        plain = llm.logits(llm.states(nothing, rows))
        tolerance = 1e-3 if llm.dtype == torch.float32 else 0.3
        for contexts in tried:
            change = llm.logits(llm.states(contexts, rows)) - plain
            for row, (number, _, targets) in enumerate(rows):
                moved = float(change[row, : len(targets)].abs().max() / plain.std())
                if not (0 < moved < math.inf if number == 0 else moved <= tolerance):
                    return f"a context of {contexts.KIND} moves logits by {moved:.2g}"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture raises at what it does not know
        return first_line(error)
    finally:
        llm.model.train(training)
    return None


def _plain(
    llm: FrozenLLM,
    contexts: Sequence[Sequence[int]],
    rows: Rows,
) -> list[Tensor]:
    """Return each row's logits of its targets by a pass of its own."""
    found = []
    for number, before, after in rows:
        context = [*llm.prefix, *contexts[number]]
        if llm.model.config.is_encoder_decoder:
            start = llm.model.config.decoder_start_token_id
            if not llm.predicts_query:
                context, before = [*context, *before], []
            text = [start, *before, *after[:-1]]
            given = {"decoder_input_ids": torch.tensor([text], device=llm.device)}
        else:
            context, given = [*context, *before, *after[:-1]], {}
        ids = torch.tensor([context], device=llm.device)
        logits = llm.model(input_ids=ids, **given).logits[0].float()
        found.append(logits[-len(after) :])
    return found


def _compared(
    ours: Callable[[], Tensor],
    expected: Sequence[Tensor],
    dtype: torch.dtype,
) -> str | None:
    """Return what is wrong with (rows, longest, vocabulary) logits; None if nothing is."""
    try:
        found = ours()
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever an architecture raises at what it does not know
        return first_line(error)
    # Kernels for other shapes round otherwise: by up to 0.07 of the spread for a SmolLM2 of 30
    # layers in bfloat16, single logits by three times that. What is wrong differs by about 1.
    tolerance = 1e-3 if dtype == torch.float32 else 0.3
    for row, plain in enumerate(expected):
        mine = found[row, : len(plain)]
        difference = float((mine - plain).square().mean().sqrt() / plain.std().clamp(min=1e-6))
        if not difference <= tolerance:
            return f"logits differ by {difference:.2g} of their spread"
    return None


@torch.no_grad()
def verify_distiller(backbone: torch.nn.Module) -> None:
    """Raise UserError if a causal distiller's rows differ from plain passes of each alone."""
    training = backbone.training
    backbone.eval()
    embedding = backbone.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    size, positions = embedding.weight.shape[0], max_positions(backbone.config)
    rows = [torch.randint(size, (min(n, positions),), generator=generator) for n in (9, 5)]
    rows = [embedding(row.to(embedding.weight.device)) for row in rows]
    # Placeholders are no words once they are trained.
    rows = [(row + row.roll(1, 0)) / 2 for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = [len(row) for row in rows]

    # Blocks that were chosen of a model's keep their numbers, which a cache would look up.
    options = {"use_cache": False} if takes(backbone, "use_cache") else {}

    def alone() -> list[Tensor]:
        return [backbone(inputs_embeds=row[None], **options).last_hidden_state[0] for row in rows]

    try:
        problem = _compared(
            lambda: causal_states(backbone, padded, lengths, positions),
            alone(),
            embedding.weight.dtype,
        )
    except Exception as error:  # whatever an architecture raises at vectors
        problem = first_line(error)
    backbone.train(training)
    if problem:
        raise UserError(
            f"llms: a {backbone.config.model_type} cannot be a distiller: rows of vectors, read "
            f"together, are not what it makes of each alone ({problem}); choose a causal model "
            "that reads vectors"
        )
