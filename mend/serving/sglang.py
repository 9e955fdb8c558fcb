"""A client of SGLang's `/generate` with `input_embeds`.

The server is started with `--disable-radix-cache`: its cache knows texts by their tokens, which
embeddings have not. An embedding goes as lists of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mend.serving.client import Client

if TYPE_CHECKING:
    from torch import Tensor


class SGLangClient(Client):
    """A client of one SGLang server: see `Client`. `model` is the path that it was started with."""

    START = "python -m sglang.launch_server --model-path MODEL --disable-radix-cache"
    OURS = frozenset({"n", "max_new_tokens", "temperature", "stop"})

    def _served(self) -> list[str]:
        path = "/get_model_info"
        try:
            return [str(self.request(path)["model_path"])]
        except (KeyError, TypeError):
            raise self.unlike(path) from None

    def _complete(
        self,
        model: str,
        embeddings: Sequence[Tensor],
        max_new_tokens: int,
        temperature: float,
        stops: Sequence[str],
        sampling: Mapping[str, Any],
    ) -> list[str]:
        path = "/generate"
        answers = self.request(
            path,
            {
                "input_embeds": [one.float().tolist() for one in embeddings],
                "sampling_params": {
                    "max_new_tokens": max_new_tokens,
                    "temperature": temperature,
                    **({"stop": list(stops)} if stops else {}),
                    **sampling,
                },
            },
        )
        try:
            return [str(answer["text"]) for answer in answers]
        except (KeyError, TypeError):
            raise self.unlike(path) from None
