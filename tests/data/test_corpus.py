"""The corpus: reading documents of every kind of file, and cutting them into chunks."""

from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path

import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mend.configuration.specs.chunks import ChunksSpec, TokenizerSource
from mend.data.corpus import read_documents, write_chunks
from mend.errors import UserError

TEXTS = [
    "the cat sat on the mat and looked at the rain. " * 4,
    "a short one",
    "dogs chase cats, cats chase mice, and mice eat the cheese of the house. " * 3,
    "é ü 猫 — other letters, of which a byte level tokenizer makes several tokens each. ",
]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    # As some models' tokenizers do, unless told not to: begin every text with a special token.
    first = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[first]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def spec(tokenizer_folder: Path, **changes) -> ChunksSpec:
    llm = TokenizerSource(path=str(tokenizer_folder), local_files_only=True)
    settings = {"window": 16, "pretraining_chunks": "fixed-windows"}
    return ChunksSpec(llm=llm, **{**settings, **changes})


def read_chunks(path: Path) -> dict:
    return pyarrow.parquet.read_table(path).to_pydict()


def test_every_kind_of_file_gives_the_same_documents(tmp_path):
    texts = ["first", "second with é", "third\u2028still third"]
    lines = "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in texts).encode()
    plain = "".join(text + "\n" for text in texts).encode()
    files = {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "c4-validation.00000-of-00008.json.gz": gzip.compress(lines),
        "a.txt": plain.replace(b"\n", b"\r\n"),
        "a.txt.gz": gzip.compress(plain),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert list(read_documents([tmp_path / name])) == texts, name
    assert list(read_documents([tmp_path / "a.txt", str(tmp_path / "a.jsonl")])) == texts * 2


def test_gzip_of_several_members_is_read_to_the_end(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert list(read_documents([path])) == ["one", "two"]


def test_empty_documents_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n\n{"text": " \\n"}\n{"text": "b"}\n')
    assert list(read_documents([path])) == ["b"]


def test_half_a_surrogate_pair_does_not_stop_the_reading(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b"}\n')
    assert list(read_documents([path])) == ["a?b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b'"text"', "not an object with a string under 'text'"),
        (b'{"content": "x"}', "not an object with a string under 'text'"),
        (b'{"text": null}', "not an object with a string under 'text'"),
    ],
)
def test_errors_name_file_and_line(tmp_path, line, message):
    for name, write in (("a.jsonl", bytes), ("a.json.gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(write(b'{"text": "good"}\n\n' + line + b"\n"))
        with pytest.raises(UserError) as raised:
            list(read_documents([path]))
        assert str(raised.value).startswith(f"{path}, line 3: ")
        assert message in str(raised.value)


def test_bytes_that_are_not_utf_8_are_told(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n" * 400_000 + b"\xe9\n")
    with pytest.raises(UserError) as raised:
        list(read_documents([path]))
    found = re.fullmatch(r".*a\.txt, after line (\d+): not UTF-8", str(raised.value))
    assert 100_000 < int(found[1]) < 400_000


def test_what_looks_like_a_date_stays_text(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["2019-04-25T12:57:54Z", "2019-04-25", "5"])
    assert list(read_documents([path])) == ["2019-04-25T12:57:54Z", "2019-04-25", "5"]


def test_names_are_taken_as_they_are(tmp_path):
    path = tmp_path / "[a]?" / "b*{1}.txt"
    path.parent.mkdir()
    path.write_text("one\n")
    assert list(read_documents([path])) == ["one"]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"a\.parquet: a corpus file's name must end in \.jsonl"):
        list(read_documents([tmp_path / "a.parquet"]))
    with pytest.raises(UserError, match=r"a\.txt: no such file"):
        list(read_documents([tmp_path / "a.txt"]))
    (tmp_path / "a.txt.gz").write_text("not gzip")
    with pytest.raises(UserError, match=r"a\.txt\.gz, after line 0: cannot be read"):
        list(read_documents([tmp_path / "a.txt.gz"]))
    whole = gzip.compress(b"".join(b"line %d\n" % i for i in range(10_000)))
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.txt\.gz, after line \d+: cannot be read"):
        list(read_documents([tmp_path / "cut.txt.gz"]))


def test_patterns_stand_for_files_in_order(tmp_path):
    for name in ("b.00001.txt", "b.00000.txt", "a.txt"):
        (tmp_path / name).write_text(name + "\n")
    assert list(read_documents([tmp_path / "b.*.txt", tmp_path / "a.txt"])) == [
        "b.00000.txt",
        "b.00001.txt",
        "a.txt",
    ]
    with pytest.raises(UserError, match=r"c\.\*\.txt: no file of the corpus has such a name"):
        list(read_documents([tmp_path / "c.*.txt"]))


def test_another_column(tmp_path, tokenizer_folder):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"input": "5" * 20}) + "\n")
    assert list(read_documents([path], "input")) == ["5" * 20]
    settings = spec(tokenizer_folder, pretraining_chunks="per-document", column="input")
    write_chunks(settings, [path], tmp_path / "chunks.parquet")
    assert read_chunks(tmp_path / "chunks.parquet")["document"] == [0]


@pytest.mark.parametrize("batch", [1, 100, 1_000_000])
def test_fixed_windows_pack_documents(tmp_path, tokenizer_folder, monkeypatch, batch):
    monkeypatch.setattr("mend.data.corpus._BATCH_CHARACTERS", batch)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    files = [
        write_jsonl(tmp_path / "a.jsonl", TEXTS[:2]),
        write_jsonl(tmp_path / "b.jsonl", TEXTS[2:]),
    ]
    write_chunks(spec(tokenizer_folder), files, tmp_path / "chunks.parquet")

    stream, owners = [], []
    for number, text in enumerate(TEXTS):
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        stream += ids
        owners += [number] * len(ids)
    whole = len(stream) // 16
    assert len(stream) % 16, "the test needs a last window that is not whole"
    chunks = read_chunks(tmp_path / "chunks.parquet")
    assert chunks["chunk"] == list(range(whole))
    assert chunks["input_ids"] == [stream[16 * i : 16 * (i + 1)] for i in range(whole)]
    assert chunks["document"] == [owners[16 * i] for i in range(whole)]


@pytest.mark.parametrize("kind", ["fixed-windows", "per-document"])
@pytest.mark.parametrize("batch", [1, 70, 1_000_000])
def test_chunks_are_those_of_the_plain_way(tmp_path, tokenizer_folder, monkeypatch, kind, batch):
    """Documents of every length: shorter than a window, just as long with its end, several long."""
    monkeypatch.setattr("mend.data.corpus._BATCH_CHARACTERS", batch)
    window = 20
    # Digits are in no merge, so each is one token.
    texts = [str(n % 10) * n for n in (19, 19, 1, 40, 7, 59, 60, 16, 15, 2, 2, 2, 100, 19, 20, 5)]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert [len(ids) for ids in encoded] == [len(text) for text in texts]
    if kind == "fixed-windows":
        flat = [
            (number, token)
            for number, ids in enumerate(encoded)
            for token in [*ids, tokenizer.eos_token_id]
        ]
        parts = [flat[i : i + window] for i in range(0, len(flat), window)]
        plain = [(part[0][0], [token for _, token in part]) for part in parts]
        plain = [chunk for chunk in plain if len(chunk[1]) == window]
    else:
        plain = [(i, ids[:window]) for i, ids in enumerate(encoded) if len(ids) >= 16]
    output = tmp_path / "chunks.parquet"
    settings = spec(tokenizer_folder, window=window, pretraining_chunks=kind)
    write_chunks(settings, [write_jsonl(tmp_path / "a.jsonl", texts)], output)
    chunks = read_chunks(output)
    assert chunks["chunk"] == list(range(len(plain)))
    assert list(zip(chunks["document"], chunks["input_ids"], strict=True)) == plain


@pytest.mark.parametrize("batch", [1, 1_000_000])
def test_per_document_cuts_each_document(tmp_path, tokenizer_folder, monkeypatch, batch):
    monkeypatch.setattr("mend.data.corpus._BATCH_CHARACTERS", batch)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    files = [write_jsonl(tmp_path / "a.jsonl", TEXTS)]
    settings = spec(tokenizer_folder, window=40, pretraining_chunks="per-document")
    write_chunks(settings, files, tmp_path / "chunks.parquet")
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert len(encoded[1]) < 16
    assert len(encoded[0]) > 40
    chunks = read_chunks(tmp_path / "chunks.parquet")
    assert chunks["document"] == [0, 2, 3]
    assert chunks["chunk"] == [0, 1, 2]
    assert chunks["input_ids"] == [encoded[i][:40] for i in (0, 2, 3)]


@pytest.mark.parametrize("length", [15, 16])
def test_the_shortest_document_that_is_kept(tmp_path, tokenizer_folder, length):
    # Digits are in no merge, so each is one token.
    files = [write_jsonl(tmp_path / "a.jsonl", ["5" * length, "7" * 30])]
    settings = spec(tokenizer_folder, pretraining_chunks="per-document")
    write_chunks(settings, files, tmp_path / "chunks.parquet")
    assert read_chunks(tmp_path / "chunks.parquet")["document"] == ([0, 1] if length == 16 else [1])


def test_the_limit_on_documents(tmp_path, tokenizer_folder):
    files = [write_jsonl(tmp_path / "a.jsonl", [TEXTS[0], TEXTS[2]]), tmp_path / "never-opened.txt"]
    settings = spec(tokenizer_folder, pretraining_chunks="per-document", documents=2)
    write_chunks(settings, files, tmp_path / "chunks.parquet")
    assert read_chunks(tmp_path / "chunks.parquet")["document"] == [0, 1]


def test_row_groups_stay_small(tmp_path, tokenizer_folder, monkeypatch):
    monkeypatch.setattr("mend.data.corpus._BATCH_CHARACTERS", 1)
    monkeypatch.setattr("mend.data.corpus._ROW_GROUP_TOKENS", 64)
    files = [write_jsonl(tmp_path / "a.jsonl", TEXTS * 5)]
    write_chunks(spec(tokenizer_folder), files, tmp_path / "chunks.parquet")
    metadata = pyarrow.parquet.read_metadata(tmp_path / "chunks.parquet")
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert len(sizes) > 2
    assert all(size >= 4 for size in sizes[:-1])
    chunks = read_chunks(tmp_path / "chunks.parquet")
    assert chunks["chunk"] == list(range(sum(sizes)))
    schema = pyarrow.parquet.read_schema(tmp_path / "chunks.parquet")
    assert [str(field.type) for field in schema] == ["int32", "int32", "list<element: int32>"]


def test_the_same_corpus_gives_the_same_bytes(tmp_path, tokenizer_folder):
    files = [write_jsonl(tmp_path / "a.jsonl", TEXTS)]
    for name in ("one", "two"):
        write_chunks(spec(tokenizer_folder), files, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_errors_leave_no_file(tmp_path, tokenizer_folder):
    output = tmp_path / "chunks.parquet"
    short = write_jsonl(tmp_path / "short.jsonl", ["hi"])
    with pytest.raises(UserError, match="gives not one chunk of 16 tokens"):
        write_chunks(spec(tokenizer_folder), [short], output)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"text": TEXTS[0]}) + "\n{\n")
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2: not JSON"):
        write_chunks(spec(tokenizer_folder), [bad], output)
    with pytest.raises(UserError, match="cannot load the LLM .*: its tokenizer: "):
        write_chunks(spec(tmp_path / "no-model"), [short], output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "short.jsonl"]


def test_joining_needs_an_end_of_text_token(tmp_path, tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "no-eos")
    files = [write_jsonl(tmp_path / "a.jsonl", TEXTS)]
    with pytest.raises(UserError, match=r"no-eos: its tokenizer has no eos_token"):
        write_chunks(spec(tmp_path / "no-eos"), files, tmp_path / "chunks.parquet")
    settings = spec(tmp_path / "no-eos", pretraining_chunks="per-document")
    write_chunks(settings, files, tmp_path / "chunks.parquet")


def test_progress_is_told(tmp_path, tokenizer_folder, caplog):
    files = [write_jsonl(tmp_path / "a.jsonl", TEXTS)]
    with caplog.at_level(logging.INFO, logger="mend"):
        write_chunks(spec(tokenizer_folder), files, tmp_path / "chunks.parquet")
    assert "chunks.parquet" in caplog.text
