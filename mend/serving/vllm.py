"""A client of vLLM's `/v1/completions` with `prompt_embeds`.

The server is started with `vllm serve MODEL --enable-prompt-embeds`. An embedding goes as base64 of
what `torch.save` writes of a tensor (positions, width); the server reads it with `weights_only` and
brings it to its own dtype. Its answer is JSON.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mend.serving.client import Client

if TYPE_CHECKING:
    from torch import Tensor


class VLLMClient(Client):
    """A client of one vLLM server: see `Client`."""

    START = "vllm serve MODEL --enable-prompt-embeds"
    OURS = frozenset({"model", "prompt", "prompt_embeds", "max_tokens", "n", "echo", "stream"})

    def _complete(
        self,
        model: str,
        embeddings: Sequence[Tensor],
        max_new_tokens: int,
        temperature: float,
        stops: Sequence[str],
        sampling: Mapping[str, Any],
    ) -> list[str]:
        path = "/v1/completions"
        answer = self.request(
            path,
            {
                "model": model,
                "prompt_embeds": [encode(one) for one in embeddings],
                "max_tokens": max_new_tokens,
                "temperature": temperature,
                **({"stop": list(stops)} if stops else {}),
                **sampling,
            },
        )
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            return [str(choice["text"]) for choice in choices]
        except (KeyError, TypeError):
            raise self.unlike(path) from None


def encode(embeddings: Tensor) -> str:
    """Return embeddings, (positions, width), as vLLM takes them: base64 of `torch.save`."""
    import torch

    file = io.BytesIO()
    # A copy: of a slice, all that it is a slice of would be written.
    torch.save(embeddings.detach().cpu().clone(), file)
    return base64.b64encode(file.getvalue()).decode("ascii")
