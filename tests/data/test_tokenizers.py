"""The tokens of parts are those of the joined text, with a tiny tokenizer of every kind."""

from __future__ import annotations

import pytest
from helpers.models import READING
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from mend.configuration.specs.reading import LongestContext, Separators
from mend.data.template import Template
from mend.models.loading import prefix_tokens

TEXT = [
    "a good film, and a fine one: positive",
    "the film was bad. negative",
    "what is 12 and 30? it is 42, said one of the ten",
    "Review: good\nSentiment: positive\n\n\nReview: bad\nSentiment: negative",
]
ROWS = [
    ("a good film", "positive"),
    ("12 and 30?", "42"),
    ("  two spaces, and a\nnewline ", "negative"),
    ("(bad)", "!"),
]
QUERY, OPTIONS = "what was the film", ["positive", "negative", "42", "?!"]


def byte_level(add_prefix_space: bool = False, bos: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's kind; with `bos`, one that begins each text with a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT * 4,
        trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
        ),
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def sentencepiece_bpe(dummy_prefix: bool) -> PreTrainedTokenizerFast:
    """Llama 2's kind: spaces are marks, one before the text too, and newlines are bytes.

    Without `dummy_prefix` it is Gemma's.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replaced = normalizers.Replace(" ", "▁")
    prepended = [normalizers.Prepend("▁")] if dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prepended, replaced])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    special = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        [line for text in TEXT * 4 for line in text.splitlines()],
        trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False),
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """Unigram pieces, T5's kind: words begin with a mark, by `scheme` the first one too."""
    letters = sorted(set("".join(TEXT + OPTIONS + ["(!"])) - {" "})
    pieces = [(letter, -6.0) for letter in ["▁", *letters]]
    words = {word for text in TEXT for word in text.split()}
    pieces += [(f"▁{word}", -3.0) for word in sorted(words)]
    pieces += [(word, -4.0) for word in sorted(words) if len(word) > 1]
    tokenizer = Tokenizer(models.Unigram([("<unk>", -20.0), *pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


KINDS = {
    "byte-level": byte_level,
    "byte-level, beginning of sequence": lambda: byte_level(bos=True),
    "byte-level, prefix space": lambda: byte_level(add_prefix_space=True),
    "SentencePiece BPE, dummy prefix": lambda: sentencepiece_bpe(True),
    "SentencePiece BPE": lambda: sentencepiece_bpe(False),
    "unigram, mark at the beginning": lambda: metaspace("first"),
    "unigram, mark always": lambda: metaspace("always"),
    "unigram, no mark at the beginning": lambda: metaspace("never"),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return KINDS[request.param]()


def template(tokenizer: PreTrainedTokenizerFast, input_output: str, demonstrations: str):
    separators = Separators(input_output=input_output, demonstrations=demonstrations)
    changes = {
        "separators": separators,
        "longest_context": LongestContext(llm=1000, distiller=1000),
        "longest_example": 1000,
    }
    return Template(tokenizer, READING.model_copy(update=changes), 10_000)


def of_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("input_output", "demonstrations"),
    [(" ", " "), ("\n", "\n\n\n"), ("\n\n", "\n"), (" = ", " ; "), ("\nSentiment: ", "\nReview: ")],
)
def test_parts_are_tokens_of_the_joined_text(tokenizer, input_output, demonstrations) -> None:
    made = template(tokenizer, input_output, demonstrations)
    shown = made.demonstrations(ROWS, 1000).ids
    text = demonstrations.join(f"{x}{input_output}{y}" for x, y in ROWS)
    assert shown == of_text(tokenizer, text)
    query = made.query(QUERY, after_context=True, longest_option=1)
    for option in OPTIONS:
        whole = f"{text}{demonstrations}{QUERY}{input_output}{option}"
        assert [*shown, *query, *made.option(option)] == of_text(tokenizer, whole)
    alone = made.query(QUERY, after_context=False, longest_option=1)
    for option in OPTIONS:
        whole = f"{QUERY}{input_output}{option}"
        assert [*alone, *made.option(option)] == of_text(tokenizer, whole)


def test_without_a_separator_no_word_is_begun(tokenizer) -> None:
    """As in the authors' code, where a demonstration follows an output at once."""
    made = template(tokenizer, " ", "")
    shown = made.demonstrations([("(bad)", "negative"), ("(good)", "positive")], 1000).ids
    assert shown == of_text(tokenizer, "(bad) negative(good) positive")


def test_an_option_begins_with_a_token_of_its_own() -> None:
    """Joined, "film" and "ing" could be one token; the query must not depend on its options."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        ["filming", "film"] * 9,
        trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    made = template(fast, "", "")
    assert len(of_text(fast, "filming")) == 1
    assert made.query("film", False, 1) == of_text(fast, "film")
    assert made.option("ing") == of_text(fast, "ing")


def test_a_tokenizer_that_knows_no_probe_takes_a_part_by_itself() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "good": 1, "bad": 2}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert template(fast, "", "").option("good bad") == [1, 2]
    assert template(fast, " ", " ").option("bad") == [2]


def test_a_chat_template_is_a_prefix_and_separators() -> None:
    """As the README says it, for a template of ChatML's kind."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\\n' }}"
    )
    messages = []
    for x, y in ROWS:
        messages += [{"role": "user", "content": x}, {"role": "assistant", "content": y}]
    messages.append({"role": "user", "content": QUERY})
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    between, after = "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>user\n"
    made = template(tokenizer, between, after)
    shown = made.demonstrations(ROWS, 1000).ids
    query = made.query(QUERY, after_context=True, longest_option=1)
    for option in OPTIONS:
        ids = [*prefix_tokens(tokenizer, "<|im_start|>user\n"), *shown, *query]
        assert [*ids, *made.option(option)] == of_text(tokenizer, text + option)
