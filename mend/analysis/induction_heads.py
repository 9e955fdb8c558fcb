"""Induction heads (appendix C, figure 8), and their attention maps (section 5.3, figure 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d

from mend.atomic_io import write_parquet
from mend.configuration.specs.analysis import AttentionSpec
from mend.configuration.specs.run import MethodSource
from mend.data.items import MultipleChoiceItem
from mend.errors import UserError
from mend.evaluation.predict import as_chosen, items_for
from mend.methods.built import BuiltMethod, build_method
from mend.models.frozen_llm import Attentions, FrozenLLM
from mend.models.loading import load_llm
from mend.progress import Progress, logger

#: Appendix C: how many sequences, and the tokens of one copy.
SEQUENCES = 10
LONGEST_COPY = 500
#: Section 5.3: heads shown, and the positions that a longer context is pooled to.
HEADS = 4
POSITIONS = 20
#: The most query tokens shown one by one: those of the paper's figure.
QUERY_TOKENS = 33
#: Test rows of the partition that are averaged, about.
ROWS = 40

ATTENTION_SCHEMA = pyarrow.schema(
    [
        ("llm", pyarrow.string()),
        ("partition", pyarrow.string()),
        ("kind", pyarrow.string()),
        ("task", pyarrow.string()),
        ("rows", pyarrow.int32()),
        ("method", pyarrow.string()),
        ("layer", pyarrow.int32()),
        ("head", pyarrow.int32()),
        ("region", pyarrow.string()),
        ("position", pyarrow.int32()),
        ("token", pyarrow.string()),
        ("value", pyarrow.float64()),
    ]
)


class AttentionMap(NamedTuple):
    """Where one token's attention goes, with each of some heads.

    context: (heads, context); query: (heads, tokens read after the context).
    """

    context: Tensor
    query: Tensor


@torch.no_grad()
def induction_scores(llm: FrozenLLM, length: int = LONGEST_COPY) -> Tensor:
    """Return how much each head is an induction head: (layers, heads), from 0 to 1.

    The mean attention of each position of a sequence's second copy to the token after the same
    one in the first copy, a copy's length - 1 back (appendix C; Olsson et al., 2022), over 10
    sequences of random tokens. The last position is left out: no token follows it in the first
    copy. A decoder-only LLM reads both copies; an encoder-decoder the first in the encoder and the
    second in the decoder, so that these are its cross-attention heads.

    length: of a copy; at most half of the LLM's positions, and as many tokens as there are, so
    that each token has one match.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = llm.vocabulary
    length = min(length, llm.max_positions // 2, vocabulary)
    here = torch.arange(length - 1)
    total = 0
    for _ in range(SEQUENCES):
        copy = torch.randperm(vocabulary, generator=generator)[:length].tolist()
        read = llm.text_attentions(llm.token_context([copy]), copy)
        total = total + read.to_context[:, :, here, here + 1].mean(-1)
    return (total / SEQUENCES).cpu()


def best_heads(scores: Tensor, count: int = HEADS) -> list[tuple[int, int]]:
    """Return the (layer, head) of the highest scores, best first."""
    order = scores.flatten().argsort(descending=True, stable=True)[:count]
    return [divmod(int(place), scores.shape[1]) for place in order]


def run_attention(
    spec: AttentionSpec,
    episodes: str | Path,
    tasks: str | Path,
    weights: str | Path,
    output: str | Path,
) -> None:
    """Measure one LLM's heads with vanilla ICL and with MEND, and write Parquet in long form.

    weights: the folder that MEND's training job, or `mend.evaluation.choice`, wrote.

    Columns: llm, partition, kind, task, rows, method, layer, head, region (context or query),
    position, token, value. Kinds:
      induction: each head's score (`induction_scores`).
      mean: attention of a query's last token, which predicts the answer's first token, with each
        of the 4 best heads, averaged over `rows` test rows. The context is pooled to 20 positions
        (the largest in each, as in the paper) if it is longer; the query has its last tokens
        (negative positions), as many as the shortest has.
      share: the mean sum of the attention on the whole context, not pooled.
      example: one row with the tokens of its query.
    Raises UserError if the spec names no rows.
    """
    spec = as_chosen(spec, weights)
    wanted = spec.attention
    llm = load_llm(spec.llm)
    logger.info("attention %s: induction scores", spec.llm.name)
    scores = induction_scores(llm, wanted.copy_length or LONGEST_COPY)
    heads = best_heads(scores)
    records = [
        {"kind": "induction", "layer": layer, "head": head, "value": float(scores[layer, head])}
        for layer in range(scores.shape[0])
        for head in range(scores.shape[1])
    ]
    rows_per_task = max(1, round(ROWS / max(1, len(wanted.tasks))))
    for name in ("vanilla-icl", "mend"):
        source = spec.method if name == "mend" else MethodSource(name=name)
        method = build_method(llm, spec.model_copy(update={"method": source}))
        if name == "mend":
            method.load(Path(weights) / "weights.safetensors")
        rows, items = items_for(
            llm,
            method,
            episodes,
            tasks,
            "test",
            wanted.tasks,
            seeds=[wanted.seed],
            rows_per_task=rows_per_task,
        )
        if not rows:
            raise UserError(
                f"{episodes}: no test rows of {', '.join(wanted.tasks)} for seed "
                f"{wanted.seed}; choose tasks of the partition and one of benchmark.seeds"
            )
        maps = attention_maps(llm, method.eval(), items, heads, spec.llm.name)
        for record in summaries(llm, rows, items, maps, heads):
            records.append({**record, "method": name})
    same = {"llm": spec.llm.name, "partition": wanted.partition}
    table = pyarrow.Table.from_pylist(
        [{**same, **record} for record in records], schema=ATTENTION_SCHEMA
    )
    write_parquet(table, output)


@torch.no_grad()
def attention_maps(
    llm: FrozenLLM,
    method: BuiltMethod,
    items: Sequence[MultipleChoiceItem],
    heads: Sequence[tuple[int, int]],
    name: str = "",
) -> list[AttentionMap]:
    """Return the attention of each item's last query token, which predicts the answer."""
    layers = torch.tensor([layer for layer, _ in heads])
    numbers = torch.tensor([head for _, head in heads])
    progress = Progress(f"attention {name} {method.name}", len(items))
    found = []
    for done, item in enumerate(items, start=1):
        context = method.contexts(llm, [item.kept_demonstrations()])
        read: Attentions = llm.query_attentions(context, item.query)
        parts = (read.to_context, read.to_tokens)
        found.append(AttentionMap(*(part[layers, numbers, 0].cpu() for part in parts)))
        progress.update(done)
    return found


def max_pooled(attention: Tensor, positions: int = POSITIONS) -> Tensor:
    """Return (heads, context) attention max-pooled to at most `positions`, as section 5.3."""
    if attention.shape[1] <= positions:
        return attention
    return adaptive_max_pool1d(attention, positions)


def summaries(
    llm: FrozenLLM,
    rows: Sequence[Mapping[str, Any]],
    items: Sequence[MultipleChoiceItem],
    maps: Sequence[AttentionMap],
    heads: Sequence[tuple[int, int]],
) -> Iterator[dict[str, Any]]:
    """Yield the records of kinds mean, share and example; see `run_attention`."""
    positions = min(POSITIONS, *(shown.context.shape[1] for shown in maps))
    tail = min(QUERY_TOKENS, *(shown.query.shape[1] for shown in maps))
    context = torch.stack([max_pooled(shown.context, positions) for shown in maps]).mean(0)
    query = torch.stack([shown.query[:, -tail:] for shown in maps]).mean(0)
    share = torch.stack([shown.context.sum(1) for shown in maps]).mean(0)
    averaged = {"kind": "mean", "rows": len(maps)}
    yield from _records(averaged, heads, "context", range(positions), context)
    yield from _records(averaged, heads, "query", range(-tail, 0), query)
    yield from _records({**averaged, "kind": "share"}, heads, "context", [0], share[:, None])
    # The first row that fits, or the shortest: the same one for every method.
    lengths = [shown.query.shape[1] for shown in maps]
    fitting = (number for number, length in enumerate(lengths) if length <= QUERY_TOKENS)
    number = next(fitting, lengths.index(min(lengths)))
    context, query = maps[number]
    words = [llm.tokenizer.decode([token]).strip() for token in items[number].query]
    # An encoder-decoder's start token comes before the query.
    words = ["(start)"] * (query.shape[1] - len(words)) + words
    example = {"kind": "example", "rows": 1, "task": rows[number]["task"]}
    context = max_pooled(context)
    yield from _records(example, heads, "context", range(context.shape[1]), context)
    yield from _records(example, heads, "query", range(len(words)), query, words)


def _records(
    same: Mapping[str, Any],
    heads: Sequence[tuple[int, int]],
    region: str,
    positions: Sequence[int],
    values: Tensor,
    words: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    for (layer, head), of_head in zip(heads, values.tolist(), strict=True):
        for place, (position, value) in enumerate(zip(positions, of_head, strict=True)):
            yield {
                **same,
                "layer": layer,
                "head": head,
                "region": region,
                "position": position,
                "token": words[place] if words else None,
                "value": value,
            }
