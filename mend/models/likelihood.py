"""How well an LLM predicts texts after contexts: what losses of methods' own are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM, Rows
from mend.models.padding import indices, pad_right, to_device


def text_losses(
    llm: FrozenLLM,
    contexts: Contexts,
    texts: Sequence[Sequence[int]],
    owner: Sequence[int] | None = None,
    asking: Sequence[int] = (),
) -> Tensor:
    """Return the mean next-token loss of a text after each context, in nats, (texts,).

    owner: whose context each text comes after; by default there is one for each. asking: tokens
    between each context and its text, which are read alone. A token that nothing comes before is
    not counted, nor is what the LLM has no positions for; a text without tokens has the loss 0. One
    plain pass, with gradients; nothing waits for a GPU.
    """
    owner = list(range(len(texts))) if owner is None else list(owner)
    spans, most = contexts.spans, llm.max_positions - len(asking)
    texts = [text[: max(0, most - spans[of])] for of, text in zip(owner, texts, strict=True)]
    asked = [number for number, text in enumerate(texts) if text]
    losses = torch.zeros(len(texts), device=llm.device)
    if not asked:
        return losses
    targets = [list(texts[number]) for number in asked]
    of_asked = [owner[number] for number in asked]
    states = llm.states(contexts, Rows(of_asked, [list(asking) for _ in asked], targets))
    words, mask = pad_right(targets, torch.device("cpu"), states.shape[1])
    mask = mask.bool()
    if not (llm.prefix or llm.has_start_token or asking):
        bare = torch.tensor([contexts.lengths[of] == 0 for of in of_asked])
        mask &= ~(bare[:, None] & (torch.arange(mask.shape[1]) == 0))
    counts = mask.sum(1).clamp(min=1)
    places = indices(mask.flatten().nonzero()[:, 0].tolist(), llm.device)
    words = to_device(words[mask], llm.device)
    logs = []
    for start in range(0, len(words), llm.logits_batch_size):
        part = slice(start, start + llm.logits_batch_size)
        given = (llm, states.flatten(0, 1)[places[part]], words[part])
        logs.append(checkpoint(likelihoods, *given, use_reentrant=False, preserve_rng_state=False))
    rows = torch.arange(len(mask))[:, None].expand(mask.shape)[mask]
    which = to_device(torch.tensor(asked)[rows], llm.device)
    shares = to_device((1 / counts)[rows], llm.device)
    return losses.index_add(0, which, -torch.cat(logs) * shares) if logs else losses


def averaged(losses: Tensor, owner: Sequence[int], number: int) -> Tensor:
    """Return the mean of the losses of each of `number` owners, (number,); 0 where there are none.

    owner: of each loss.
    """
    counts = Counter(owner)
    shares = torch.tensor([1 / counts[of] for of in owner])
    found = torch.zeros(number, device=losses.device)
    shares = losses * to_device(shares, losses.device)
    return found.index_add(0, indices(owner, losses.device), shares)


def likelihoods(llm: FrozenLLM, states: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target, (n,), by the states that predict them."""
    return llm.logits(states).log_softmax(-1).gather(1, targets[:, None])[:, 0]
