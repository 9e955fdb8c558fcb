"""Contexts of each kind: keys and values are read as the tokens that they are of, or refused."""

from __future__ import annotations

import pytest
import torch
from helpers.architectures import ARCHITECTURES, both, installed, words

from mend.errors import UserError
from mend.models.contexts import KeyValueContexts
from mend.models.frozen_llm import Rows

CONTEXTS = [words(7, 1), words(3, 2)]
ROWS = Rows([1, 0, 1], [words(4, 3), [], words(1, 5)], [words(2, 6), words(3, 7), words(1, 8)])
REQUIRED = {
    name: one for name, one in ARCHITECTURES.items() if one.required and not one.widens_masks
}


@pytest.mark.parametrize("prefix", [(), (1,)])
@pytest.mark.parametrize("name", installed(REQUIRED))
def test_keys_and_values_are_read_as_their_tokens(name: str, prefix: tuple) -> None:
    llm, plain = both(name, prefix)
    if llm.refuses_key_values:
        with pytest.raises(UserError, match="cannot read keys and values"):
            llm.check_key_values()
        return
    with torch.no_grad():
        kept = llm.key_values(llm.token_context(CONTEXTS))
        # As a batch, and joined of parts in another order.
        joined = KeyValueContexts.join([kept.select([1]), kept.select([0])]).select([1, 0])
        for contexts in (kept, joined):
            logits = llm.logits(llm.states(contexts, ROWS))
            for row, (owner, before, after) in enumerate(ROWS):
                text = [*before, *after]
                expected = plain.log_probabilities([*prefix, *CONTEXTS[owner]], text)
                found = logits[row, : len(after)].log_softmax(-1)
                torch.testing.assert_close(found, expected[len(before) :], atol=1e-4, rtol=0)
