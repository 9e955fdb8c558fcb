"""A client of SGLang's `/generate` with `input_embeds`.

The server is started with `--disable-radix-cache`: its cache knows texts by their tokens, which
embeddings have not. An embedding goes as lists of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mend.serving.client import Client

if TYPE_CHECKING:
    from torch import Tensor


class SGLangClient(Client):
    """A client of one SGLang server: see `Client`."""

    START = "python -m sglang.launch_server --model-path MODEL --disable-radix-cache"
    OURS = frozenset({"n"})

    def _complete(
        self,
        model: str,
        embeddings: Sequence[Tensor],
        max_new_tokens: int,
        temperature: float,
        stops: Sequence[str],
        sampling: Mapping[str, Any],
    ) -> list[str]:
        sampling_params = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            **({"stop": list(stops)} if stops else {}),
            **sampling,
        }

        def one(embedding: Tensor) -> str:
            # A request each, at the same time: lists of embeddings are in its schema, but not in
            # its tests.
            body = {
                "input_embeds": embedding.float().tolist(),
                "sampling_params": sampling_params,
            }
            try:
                return str(self.request("/generate", body)["text"])
            except (KeyError, TypeError):
                raise self.unlike("/generate") from None

        with ThreadPoolExecutor(len(embeddings)) as pool:
            return list(pool.map(one, embeddings))
