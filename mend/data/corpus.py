"""The pretraining corpus: documents streamed from files, and cut into chunks of tokens.

Chunks are what the distiller is pretrained on (paper, section 3.2): the first beta of a chunk is
the demonstration, the rest the query.
"""

from __future__ import annotations

import glob
import json
import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mend.atomic_io import PARQUET, atomic_file, check_file, made_by
from mend.configuration.specs.chunks import ChunksSpec, TokenizerSource
from mend.data.pretrained import Pretrained
from mend.errors import UserError
from mend.progress import Progress, logger

if TYPE_CHECKING:
    import numpy
    import pyarrow.parquet

SHORTEST_DOCUMENT = 16
"""With pretraining_chunks: per-document, a document with fewer tokens than this is left out."""

_JSON_LINES = (".jsonl", ".jsonl.gz", ".json.gz")
_TEXT = (".txt", ".txt.gz")
_READ_CHARACTERS = 1 << 20  # of a file, read at once
_READ_LINES = 64  # turned into Python at once
_BATCH_CHARACTERS = 1_000_000  # of documents, tokenized at once
_ROW_GROUP_TOKENS = 1_000_000  # chunks held in memory before they are written


def read_documents(files: Iterable[str | Path], column: str = "text") -> Iterator[str]:
    """Stream the documents of files, in order; empty documents and blank lines are left out.

    `.jsonl`, `.jsonl.gz` and `.json.gz` (C4's name for JSON lines) hold one object a line with the
    document under `column`; `.txt` and `.txt.gz` hold one document a line. A name with a * that is
    no file stands for all files that match, in order of their names.

    Raises:
        UserError: naming the file, and the line that is not such an object, or after which come
            bytes that are not UTF-8 or a damaged part of a gzip file.
    """
    for path in _expand(files):
        is_json = path.name.endswith(_JSON_LINES)
        if not is_json and not path.name.endswith(_TEXT):
            raise UserError(
                f"{path}: a corpus file's name must end in {', '.join(_JSON_LINES + _TEXT)}"
            )
        check_file(path)
        number = 0
        try:
            for number, line in enumerate(_lines(path), start=1):  # noqa: B007 (used below)
                if line and not line.isspace():
                    text = _document(line, column) if is_json else line
                    if text and not text.isspace():
                        yield text
        except UnicodeDecodeError:
            raise UserError(f"{path}, after line {number}: not UTF-8") from None
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}, after line {number}: cannot be read ({error})") from None


def _lines(path: Path) -> Iterator[str]:
    """Stream the lines of a text file, which may be compressed."""
    # Not its reader of JSON lines: there a text that looks like a date becomes a date, and half of
    # a surrogate pair ends the reading.
    from datasets import load_dataset

    with TemporaryDirectory() as folder:  # for a lock: what is streamed is not cached
        lines = load_dataset(
            "text",
            data_files=glob.escape(str(path)),
            split="train",
            streaming=True,
            chunksize=_READ_CHARACTERS,
            cache_dir=folder,
        )
        for table in lines.with_format("arrow").iter(batch_size=_READ_LINES):
            yield from table["text"].to_pylist()


def _expand(files: Iterable[str | Path]) -> Iterator[Path]:
    for name in files:
        if "*" not in str(name) or os.path.exists(name):
            yield Path(name)
            continue
        matches = sorted(glob.glob(str(name)))
        if not matches:
            raise UserError(f"{name}: no file of the corpus has such a name")
        yield from map(Path, matches)


def _document(line: str, column: str) -> str:
    """The document of one JSON line; ValueError says what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if type(row) is not dict or type(row.get(column)) is not str:
        raise ValueError(f"not an object with a string under {column!r}")
    text = row[column]
    # Half of a surrogate pair is no character, and tokenizers refuse it.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def write_chunks(spec: ChunksSpec, files: Sequence[str | Path], output: str | Path) -> None:
    """Tokenize a corpus and write its chunks to Parquet, with flat memory.

    Columns: chunk (int32), document (int32, counted over all files: the one that the chunk begins
    in), input_ids (list<int32>).

    With fixed-windows, documents are joined with the tokenizer's end-of-text token after each (the
    separator GPT-2 and OPT were themselves pretrained with between documents) and cut into windows
    of exactly `window` tokens; what is left at the end is dropped. With per-document, each
    document is one chunk: its first `window` tokens, or nothing if it has fewer than
    SHORTEST_DOCUMENT. No other special tokens are added.

    Args:
        spec: whose tokens, and how they are cut.
        files: see `read_documents`; read in the given order.
        output: the Parquet file, which appears whole or not at all.

    Raises:
        UserError: as `read_documents`; if the tokenizer cannot be loaded or, with fixed-windows,
            has no end-of-text token; if not one chunk comes out.
    """
    import pyarrow
    import pyarrow.parquet

    per_document = spec.pretraining_chunks == "per-document"
    tokenizer = load_tokenizer(spec.llm)
    if not per_document and tokenizer.eos_token_id is None:
        raise UserError(
            f"{spec.llm.path}: its tokenizer has no eos_token to join documents with "
            "(protocol.pretraining_chunks: per-document needs none)"
        )
    documents = islice(read_documents(files, spec.column), spec.documents)
    schema = pyarrow.schema(
        [
            ("chunk", pyarrow.int32()),
            ("document", pyarrow.int32()),
            ("input_ids", pyarrow.list_(pyarrow.int32())),
        ],
        metadata=made_by(),
    )
    batches = _tokenize(tokenizer, documents, spec.documents)
    cut = _cut_documents if per_document else _pack_windows
    with (
        atomic_file(output) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, schema, **PARQUET) as writer,
    ):
        chunks = _write(writer, cut(batches, spec.window, tokenizer.eos_token_id))
        if not chunks:
            raise UserError(
                f"the corpus ({len(files)} files) gives not one chunk of {spec.window} tokens"
            )
    logger.info("%s: %d chunks", output, chunks)


def load_tokenizer(llm: TokenizerSource) -> Any:
    """The tokenizer of an LLM; raises UserError if it cannot be loaded."""
    return Pretrained(llm.path, llm.revision, llm.local_files_only).tokenizer()


def _tokenize(
    tokenizer: Any, documents: Iterator[str], total: int | None
) -> Iterator[Iterable[list[int]]]:
    """Token ids of each document, a batch at a time."""
    progress = Progress("documents", total) if total else None
    encode = _encoder(tokenizer)
    done = 0
    for batch in text_batches(documents):
        yield encode(batch)
        done += len(batch)
        if progress:
            progress.update(done)


def _encoder(tokenizer: Any) -> Callable[[list[str]], Iterable[list[int]]]:
    """Return what turns texts into token ids, without special tokens and of any length.

    The ids of one text are made when they are asked for: as Python's integers they take ten times
    the memory of an int32, so that those of a whole batch would not stay in a processor's cache.
    """
    if not tokenizer.is_fast:
        # Longer than the model's positions on purpose: verbose=False spares a warning.
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        return lambda texts: tokenizer(texts, **options)["input_ids"]
    # What transformers adds to each text (masks, offsets) is not needed, and takes its time.
    bare = tokenizer.backend_tokenizer
    bare.no_truncation()
    bare.no_padding()
    return lambda texts: (
        found.ids for found in bare.encode_batch_fast(texts, add_special_tokens=False)
    )


def text_batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Gather documents until they have _BATCH_CHARACTERS characters, to be tokenized at once."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


_Chunks = Iterator[tuple["numpy.ndarray", "numpy.ndarray", "numpy.ndarray"]]


def _pack_windows(batches: Iterator[Iterable[list[int]]], window: int, eos: int) -> _Chunks:
    """Join documents, an `eos` after each, and cut windows.

    Yields (document of each chunk, length of each chunk, ids of the chunks one after the other).
    """
    import numpy

    ids = array("i")  # of what is not yet cut
    ends: list[int] = []  # where each document ends in it
    first = 0  # the number of the first of these documents
    for batch in batches:
        for document in batch:
            document.append(eos)
            ids.fromlist(document)
            ends.append(len(ids))
        whole = len(ids) // window
        cut = whole * window
        begins = numpy.arange(0, cut, window)
        owners = first + numpy.searchsorted(ends, begins, side="right")
        yield owners, numpy.full(whole, window), numpy.array(ids[:cut], dtype=numpy.int32)
        done = int(numpy.searchsorted(ends, cut, side="right"))
        first += done
        ids, ends = ids[cut:], [end - cut for end in ends[done:]]


def _cut_documents(batches: Iterator[Iterable[list[int]]], window: int, eos: int | None) -> _Chunks:
    """Cut each document at `window` tokens, one chunk each; yields as `_pack_windows`."""
    import numpy

    numbers = count()
    for batch in batches:
        ids = array("i")
        owners, lengths = [], []
        for document in batch:
            number, chunk = next(numbers), document[:window]
            if len(chunk) >= SHORTEST_DOCUMENT:
                ids.fromlist(chunk)
                owners.append(number)
                lengths.append(len(chunk))
        yield (
            numpy.array(owners, dtype=numpy.int32),
            numpy.array(lengths, dtype=numpy.int32),
            numpy.array(ids, dtype=numpy.int32),
        )


def _write(writer: pyarrow.parquet.ParquetWriter, chunks: _Chunks) -> int:
    """Write chunks in row groups of about _ROW_GROUP_TOKENS tokens; returns how many there are."""
    import numpy
    import pyarrow

    done = tokens = 0
    waiting: list[pyarrow.RecordBatch] = []
    for owners, lengths, ids in chunks:
        offsets = numpy.concatenate([[0], numpy.cumsum(lengths)]).astype(numpy.int32)
        numbers = numpy.arange(done, done + len(owners), dtype=numpy.int32)
        done += len(owners)
        tokens += len(ids)
        columns = [
            pyarrow.array(numbers),
            pyarrow.array(owners, pyarrow.int32()),
            pyarrow.ListArray.from_arrays(offsets, pyarrow.array(ids)),
        ]
        waiting.append(pyarrow.RecordBatch.from_arrays(columns, schema=writer.schema))
        if tokens >= _ROW_GROUP_TOKENS:
            writer.write_table(pyarrow.Table.from_batches(waiting))
            waiting, tokens = [], 0
    if waiting:
        writer.write_table(pyarrow.Table.from_batches(waiting))
    return done
