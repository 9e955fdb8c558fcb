"""A tokenizer and two little GPT-2 models trained on local tasks' own text.

They make the path from real MetaICL rows to a table runnable without a download. They are far too
small, and trained far too briefly, for scores above chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mend.atomic_io import atomic_folder, check_replaceable
from mend.configuration.specs.local_models import LocalModelsSpec, ModelSize
from mend.data.layout import benchmark_files, read_rows
from mend.errors import UserError
from mend.progress import Progress, logger

END = "<|endoftext|>"


def train_local_models(spec: LocalModelsSpec, folder: str | Path, output: str | Path) -> None:
    """Write `gpt2/` and `gpt2-small/` below `output`, in the layout of `from_pretrained`.

    folder: the tasks, in MetaICL's published layout.
    """
    for name in ("gpt2", "gpt2-small"):
        check_replaceable(Path(output) / name)
    torch.manual_seed(spec.seed)
    texts = list(_texts(spec, Path(folder)))
    tokenizer = train_tokenizer(texts, spec.vocabulary)
    ids = [
        token
        for encoded in tokenizer(texts, verbose=False)["input_ids"]
        for token in (*encoded, tokenizer.eos_token_id)
    ]
    stream = torch.tensor(ids)
    if len(stream) <= spec.positions:
        raise UserError(f"{folder}: {len(stream)} tokens of text, less than one window")
    for name, size in (("gpt2", spec.llm), ("gpt2-small", spec.distiller)):
        model = train_language_model(stream, len(tokenizer), spec, size, name)
        with atomic_folder(Path(output) / name) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of at most `vocabulary` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def train_language_model(
    stream: torch.Tensor, vocabulary: int, spec: LocalModelsSpec, size: ModelSize, name: str
) -> GPT2LMHeadModel:
    """Train one model on random windows of the token stream, (tokens,)."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=spec.positions,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate)
    progress = Progress(f"local model {name}", spec.steps)
    for step in range(spec.steps):
        starts = torch.randint(len(stream) - spec.positions, (spec.batch_size,))
        batch = torch.stack([stream[start : start + spec.positions] for start in starts])
        loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.update(step + 1, f"loss {loss.item():.3f}")
    logger.info("local model %s: loss %.3f after %d steps", name, loss.item(), spec.steps)
    return model.eval()


def _texts(spec: LocalModelsSpec, folder: Path) -> Iterator[str]:
    for file in benchmark_files(spec.train_tasks, [], []):
        for row in read_rows(folder / file.name, options_required=False):
            yield f"{row.input} {row.output}"
