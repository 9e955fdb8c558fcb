"""Separators, truncation and room, with a real byte-level BPE tokenizer."""

from __future__ import annotations

import pytest
from helpers.models import READING as SHARED_READING
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mend.configuration.specs.reading import LongestContext, Separators
from mend.data.template import Template
from mend.errors import UserError
from mend.models.local_models import train_tokenizer

READING = SHARED_READING.model_copy(
    update={"longest_context": LongestContext(llm=60, distiller=60), "longest_example": 256}
)
WORDS = ["one", "two", "three", "four", "five", "six", "yes", "no", "maybe"]


def byte_level_bpe() -> PreTrainedTokenizerFast:
    """Every word of WORDS is one token, with and without a space before it."""
    lines = [text for word in WORDS for text in (word, f" {word}", f"{word} {word}")]
    return train_tokenizer(lines * 5, 600)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Spaces become a mark before each word, and one stands before the text, as in T5."""
    tokenizer = Tokenizer(
        models.Unigram(
            [("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -1.0) for word in WORDS)], unk_id=0
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    return byte_level_bpe()


def words(count: int, word: str = "one") -> str:
    return " ".join([word] * count)


def tokens(tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.decode([i]) for i in ids]


def template(tokenizer, positions: int = 100, **changes) -> Template:
    return Template(tokenizer, READING.model_copy(update=changes), positions)


def test_our_separators_give_words_with_their_space(bpe):
    made = template(bpe)
    assert tokens(bpe, made.option("yes")) == [" yes"]
    first = made.example("one two", "yes", first=True)
    assert [tokens(bpe, ids) for ids in first] == [["one", " two"], [" yes"]]
    second = made.example("one two", "yes", first=False)
    assert [tokens(bpe, ids) for ids in second] == [[" one", " two"], [" yes"]]
    demonstrations = made.demonstrations([("one two", "yes"), ("three", "no")], 60).ids
    assert bpe.decode(demonstrations) == "one two yes three no"
    assert demonstrations == bpe("one two yes three no", add_special_tokens=False)["input_ids"]


def test_the_authors_separators_leave_no_space_between(bpe):
    made = template(bpe, separators=Separators(input_output=" ", demonstrations=""))
    demonstrations = made.demonstrations([("one two", "yes"), ("three", "no")], 60).ids
    assert bpe.decode(demonstrations) == "one two yesthree no"
    assert tokens(bpe, made.query("five six", after_context=True, longest_option=1)) == [
        "five",
        " six",
    ]


def test_newlines_can_separate(bpe):
    made = template(bpe, separators=Separators(input_output="\n", demonstrations="\n\n\n"))
    demonstrations = made.demonstrations([("one two", "yes"), ("three", "no")], 60).ids
    assert bpe.decode(demonstrations) == "one two\nyes\n\n\nthree\nno"


def test_a_query_has_a_separator_only_after_a_context(bpe):
    made = template(bpe)
    assert tokens(bpe, made.query("five six", True, 1)) == [" five", " six"]
    assert tokens(bpe, made.query("five six", False, 1)) == ["five", " six"]


def test_a_sentencepiece_tokenizer():
    tokenizer = sentencepiece_like()
    made = template(tokenizer)
    rows = [("one two", "yes"), ("three", "no")]
    ids = made.demonstrations(rows, 60).ids
    expected = ["▁one", "▁two", "▁yes", "▁three", "▁no"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert made.query("five", False, 1) == made.query("five", True, 1)


def test_no_special_tokens_are_added(bpe):
    wrapped = byte_level_bpe()
    end = ("<|endoftext|>", wrapped.eos_token_id)
    wrapped.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{end[0]} $A {end[0]}", special_tokens=[end]
    )
    assert wrapped("yes")["input_ids"][0] == wrapped.eos_token_id
    assert template(wrapped).option("yes") == template(bpe).option("yes")


@pytest.mark.parametrize(
    ("rule", "x_tokens"), [("input-and-output", 20 - 2 - 3), ("input-only", 20)]
)
def test_an_example_is_cut_at_the_end_of_its_input(bpe, rule, x_tokens):
    made = template(bpe, example_truncation=rule, longest_example=20)
    long = "two " + words(50)
    x, y = made.example(long, "yes no maybe", first=True)
    assert x == bpe(long)["input_ids"][:x_tokens]
    assert tokens(bpe, y) == [" yes", " no", " maybe"]
    exact = words(x_tokens)
    assert len(made.example(exact, "yes no maybe", first=False)[0]) == x_tokens


def test_an_output_is_never_cut(bpe):
    made = template(bpe, longest_example=20)
    x, y = made.example(words(5), words(30, "yes"), first=True)
    assert (len(x), len(y)) == (0, 30)
    assert len(made.option(words(80, "yes"))) == 80


ROWS = [(words(4), "yes"), (words(9), "no"), (words(1), "maybe")]  # 5, 10 and 2 tokens


@pytest.mark.parametrize(
    ("limit", "omit", "cut"),
    [
        (17, 17, 17),
        (16, 15, 16 - 1),  # one token is left, which the third's output would need
        (15, 15, 15),
        (14, 5, 14),
        (7, 5, 7),
        (6, 5, 5),  # of the second's input not one token would stay
        (5, 5, 5),
        (4, 0, 4),
        (1, 0, 0),
        (0, 0, 0),
    ],
)
def test_demonstrations_that_do_not_fit(bpe, limit, omit, cut):
    whole = bpe(" ".join(f"{x} {y}" for x, y in ROWS))["input_ids"]
    assert len(whole) == 17
    assert template(bpe).demonstrations(ROWS, limit).ids == whole[:omit]
    made = template(bpe, demonstration_overflow="cut-input").demonstrations(ROWS, limit).ids
    assert len(made) == cut
    if limit == 14:  # the second demonstration lost the last token of its input, not its output
        assert tokens(bpe, made)[-2:] == [" one", " no"]


def test_all_after_the_one_that_does_not_fit_are_left_out(bpe):
    # The third would fit into the room that the second does not.
    for rule in ("omit", "cut-input"):
        made = template(bpe, demonstration_overflow=rule)
        assert " maybe" not in tokens(bpe, made.demonstrations(ROWS, 12).ids)


def test_a_part_that_is_left_out_takes_its_separator_with_it(bpe):
    made = template(bpe, separators=Separators(input_output="\n", demonstrations="\n\n\n"))
    no_labels = [("one two", None), ("three", None)]
    no_inputs = [(None, "yes"), (None, "no")]
    assert bpe.decode(made.demonstrations(no_labels, 60).ids) == "one two\n\n\nthree"
    assert bpe.decode(made.demonstrations(no_inputs, 60).ids) == "yes\n\n\nno"
    made = template(bpe)
    assert tokens(bpe, made.demonstrations(no_labels, 60).ids) == ["one", " two", " three"]
    assert tokens(bpe, made.demonstrations(no_inputs, 60).ids) == ["yes", " no"]


def test_what_is_left_out_leaves_room_for_more(bpe):
    no_labels = [(x, None) for x, _ in ROWS]  # 4, 9 and 1 tokens
    for rule, expected in (("omit", 4), ("cut-input", 12)):
        made = template(bpe, demonstration_overflow=rule)
        assert len(made.demonstrations(no_labels, 12).ids) == expected
        assert len(made.demonstrations(no_labels, 14).ids) == 14
    no_inputs = [(None, words(3, "yes")), (None, words(4, "no"))]
    for rule in ("omit", "cut-input"):  # outputs are never cut
        made = template(bpe, demonstration_overflow=rule)
        assert len(made.demonstrations(no_inputs, 6).ids) == 3
    assert len(template(bpe, longest_example=20).example(words(50), None, True)[0]) == 18


@pytest.mark.parametrize(
    ("limit", "kept"), [(17, 3), (16, 2), (12, 2), (11, 1), (2, 1), (1, 0), (0, 0)]
)
def test_the_last_that_fit_are_kept_whole(bpe, limit, kept):
    for rule in ("omit", "cut-input"):
        made = template(bpe, demonstration_overflow=rule)
        shown = made.demonstrations(ROWS, limit, nearest_last=True)
        rows = ROWS[len(ROWS) - kept :]
        assert bpe.decode(shown.ids) == " ".join(f"{x} {y}" for x, y in rows)
        assert (shown.cut, shown.left_out) == (0, len(ROWS) - kept)


@pytest.mark.parametrize(
    ("limit", "cut", "left_out"),
    [(17, 0, 0), (16, 1, 0), (12, 0, 1), (11, 1, 1), (2, 0, 2), (1, 1, 2), (0, 0, 3)],
)
def test_the_oldest_tokens_fall_off(bpe, limit, cut, left_out):
    made = template(bpe, demonstration_overflow="oldest-tokens")
    whole = bpe(" ".join(f"{x} {y}" for x, y in ROWS))["input_ids"]
    for nearest_last in (False, True):
        shown = made.demonstrations(ROWS, limit, nearest_last)
        assert shown == (whole[17 - limit :], cut, left_out)


def test_what_is_cut_is_counted(bpe):
    made = template(bpe, longest_example=8)  # of the second, 9 + 1 + 2, four tokens are cut
    assert made.demonstrations(ROWS, 60)[1:] == (1, 0)
    assert made.demonstrations(ROWS, 10)[1:] == (0, 2)
    made = template(bpe, longest_example=8, demonstration_overflow="cut-input")
    assert made.demonstrations(ROWS, 10)[1:] == (1, 1)
    assert made.is_cut(words(9), made.query(words(9), True, 1), True)
    assert not made.is_cut(words(5), made.query(words(5), True, 1), True)
    long = words(500, "yes")
    assert made.is_answer_cut(long, made.answered_query("one", long, True)[1])
    assert not made.is_answer_cut("yes", made.answered_query("one", "yes", True)[1])


def test_what_the_oldest_tokens_fall_off_of(bpe):
    # MetaICL's rule: longest_example for each demonstration, at most the longest context.
    made = template(bpe, demonstration_overflow="oldest-tokens", longest_example=20)
    assert [made.longest_together(shots) for shots in (0, 1, 2, 3, 16)] == [0, 20, 40, 60, 60]
    assert made.room_before(10, 3, shots=2) == 27
    assert made.room_before(30, 20, shots=2) == 0
    assert template(bpe).longest_together(16) is None


def test_a_query_comes_before_demonstrations(bpe):
    made = template(bpe, positions=100)
    longest = made.longest(["yes", "yes no maybe", "no"])
    assert longest == 3
    text = words(80)
    assert made.query(text, True, longest) == bpe(" " + text)["input_ids"]
    # The longest context is 60 tokens, and less where the query needs it.
    assert made.room_before(30, longest) == 60
    assert made.room_before(80, longest) == 17
    # Alone too long: cut to what the LLM can hold, whether or not something stands before it.
    ids = made.query(words(200), True, longest)
    assert ids == bpe(" " + words(200))["input_ids"][:97]
    assert len(made.query(words(200), False, longest)) == 97
    assert made.room_before(97, longest) == 0


@pytest.mark.parametrize("longest", [1, 60, 100])
def test_a_query_is_the_same_whatever_the_longest_context_is(bpe, longest):
    limits = LongestContext(llm=longest, distiller=longest)
    made = template(bpe, longest_context=limits, longest_example=50)
    assert made.query(words(80), True, 3) == bpe(" " + words(45))["input_ids"]


def test_vectors_fit_beside_a_query_or_are_refused(bpe):
    made = template(bpe)
    made.check_vectors(60, 37, 3, "row 7")
    with pytest.raises(UserError) as raised:
        made.check_vectors(61, 37, 3, "row 7")
    assert "row 7: 61 vectors, a query of 37 tokens and an answer of 3" in str(raised.value)
    assert "the LLM's 100 positions" in str(raised.value)


@pytest.mark.parametrize(("rule", "expected"), [("input-and-output", 15), ("input-only", 20)])
def test_a_query_is_cut_like_an_example(bpe, rule, expected):
    made = template(bpe, example_truncation=rule, longest_example=20)
    assert len(made.query(words(50), True, 3)) == expected


def test_an_option_longer_than_an_example_leaves_a_token_of_the_query(bpe):
    made = template(bpe, longest_example=20)
    assert len(made.query(words(50), False, 30)) == 1


def test_an_option_that_leaves_no_room(bpe):
    made = template(bpe)
    assert len(made.query(words(50), True, 99)) == 1
    with pytest.raises(UserError, match="row 7: an option of 100 tokens .* 100 positions"):
        made.query(words(50), True, 100, "row 7")


def test_an_answer_to_train_on_is_cut_only_when_it_alone_is_too_long(bpe):
    made = template(bpe)
    assert made.answered_query("one two", "yes", True) == (
        made.query("one two", True, 1),
        made.option("yes"),
    )
    x, y = made.answered_query(words(80), words(30, "yes"), True)
    assert (len(x), len(y)) == (70, 30)
    x, y = made.answered_query(words(80), words(500, "yes"), True)
    assert (len(x), len(y)) == (50, 50)


@pytest.mark.parametrize("rule", ["input-and-output", "input-only"])
def test_vectors_that_fit_beside_any_query(bpe, rule):
    made = template(bpe, example_truncation=rule, longest_example=20)
    most = {"input-and-output": 100 - 51, "input-only": 100 - 50 - 20}[rule]
    assert made.fits_beside_any(most)
    assert not made.fits_beside_any(most + 1)
    for inputs in (1, 18, 19, 200):
        for outputs in (1, 17, 18, 49, 50, 51, 200):
            x, y = made.answered_query(words(inputs), words(outputs, "yes"), True)
            made.check_vectors(most, len(x), len(y), "any row")


def test_an_option_without_tokens(bpe):
    made = template(bpe, separators=Separators(input_output="", demonstrations=""))
    with pytest.raises(UserError, match="option '' has no tokens"):
        made.option("")


def test_what_is_returned_can_be_changed(bpe):
    made = template(bpe)
    made.option("yes").append(0)
    made.query("one", True, 1).append(0)
    made.example("one", "yes", True)[0].append(0)
    assert len(made.option("yes")) == len(made.query("one", True, 1)) == 1
    assert len(made.example("one", "yes", True)[0]) == 1


def test_a_text_is_tokenized_once(bpe):
    calls = []

    def counting(text, **options):
        calls.append(text)
        return bpe(text, **options)

    made = template(counting)
    for _ in range(3):
        made.demonstrations(ROWS, 60)
    assert len(calls) == len(set(calls)) == 6 + 3  # and three probes
