"""The pocket tokenizer: words of up to four letters are one token, longer ones two or three.

A word of n letters is n / 4 pieces, rounded up, of about equal length (`merry` is `mer ##ry`);
those that open rows and those of running text alone are whole.
"""

from __future__ import annotations

from mend.pocket.lexicon import OPENERS, PROSE_WORDS, vocabulary

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
LETTERS = 4
CONTINUED = "##"


def pieces(word: str) -> list[str]:
    """Return the pieces that a word adds to the vocabulary."""
    if word in PROSE_WORDS or any(word in openers for openers in OPENERS.values()):
        return [word]
    number = -(-len(word) // LETTERS)
    length = -(-len(word) // number)
    parts = [word[i : i + length] for i in range(0, len(word), length)]
    return [parts[0], *(CONTINUED + part for part in parts[1:])]


def build_tokenizer():
    """Return a `transformers.PreTrainedTokenizerFast` whose tokens never reach across white space.

    It adds no special token by itself; pad is 0, unknown 1, the end of a document 2.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = dict.fromkeys((PAD, UNKNOWN, END))
    tokens |= dict.fromkeys(piece for word in vocabulary() for piece in pieces(word))
    identifiers = {token: identifier for identifier, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(identifiers, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(CONTINUED, cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )
