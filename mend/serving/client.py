"""What the clients of all servers have in common: contexts into embeddings, JSON over HTTP."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mend.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from mend.library.context import Context

#: Queries in one request: SGLang's takes 10 bytes for each number of an embedding.
AT_ONCE = 16


class Client:
    """A client of one server. Subclasses know its address, its request and its answer.

    url: where the server is, such as http://localhost:8000, with or without /v1.
    model: the name that it serves the LLM by; None for the only one that it serves.
    api_key: sent as a bearer token. timeout: seconds that one request may take.
    """

    #: How such a server is started, for messages.
    START: str
    #: Names of a request's settings that the context, the queries or the client decide.
    OURS: frozenset[str]

    def __init__(
        self, url: str, model: str | None = None, api_key: str | None = None, timeout: float = 60.0
    ) -> None:
        """Remember the server; nothing is sent yet. Raises UserError for what is no address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is no server's address; it is like http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model, self.timeout = model, timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._found: str | None = None

    def generate(
        self,
        context: Context | Sequence[Context],
        queries: Sequence[str],
        max_new_tokens: int = 20,
        temperature: float = 0.0,
        stop: str | Sequence[str] = (),
        **sampling: Any,
    ) -> list[str]:
        """Return what the server's LLM writes after each query, new text only.

        context: one for all queries, or one for each. temperature: 0 is greedy decoding. stop:
        texts at which writing ends, which are not returned. sampling: whatever else the server
        takes, by its own names.
        Raises UserError if no such server answers, if it serves another model, if it refuses the
        request (with its own message), for settings that are the client's, and for contexts that
        are not vectors of a decoder-only LLM or tokens of it.
        """
        if ours := sorted(sampling.keys() & self.OURS):
            raise UserError(f"{ours[0]} is decided by the context and the client; leave it out")
        contexts = list(context) if isinstance(context, Sequence) else [context] * len(queries)
        if len(contexts) != len(queries):
            raise UserError(
                f"there are {len(contexts)} contexts and {len(queries)} queries; give one context "
                "for all, or one for each"
            )
        stops = [stop] if isinstance(stop, str) else list(stop)
        model = self.served_model()
        found: list[str] = []
        for start in range(0, len(queries), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            pairs = zip(contexts[part], queries[part], strict=True)
            embeddings = [embed(one, query) for one, query in pairs]
            texts = self._complete(model, embeddings, max_new_tokens, temperature, stops, sampling)
            if len(texts) != len(embeddings):
                raise UserError(
                    f"{self.url}: asked for {len(embeddings)} texts, it answered {len(texts)}"
                )
            found += texts
        return found

    def served_model(self) -> str:
        """Return the name of the model that is asked for, which the server has.

        Raises UserError if the server has it not, or has several and none was chosen.
        """
        if self._found is None:
            names = self._served()
            if self.model is None and len(names) != 1:
                raise UserError(
                    f"{self.url} serves {', '.join(names) or 'nothing'}; choose `model`"
                )
            if self.model is not None and self.model not in names:
                raise UserError(
                    f"{self.url} serves {', '.join(names) or 'nothing'}, and not {self.model}"
                )
            self._found = self.model or names[0]
        return self._found

    def _served(self) -> list[str]:
        """Return the names of the models that the server has."""
        path = "/v1/models"
        try:
            return [str(model["id"]) for model in self.request(path)["data"]]
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
        """Return the text after each of some embeddings, (positions, width)."""
        raise NotImplementedError

    def request(self, path: str, body: Any = None) -> Any:
        """Return the JSON that the server answers; GET without a body, POST with one.

        Raises UserError, in one line, if there is no server, no answer in time, an HTTP error (with
        the server's own message), or an answer that is not JSON.
        """
        address = self.url + path
        try:
            data = None if body is None else json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise UserError(f"the request to {address} cannot be written: {error}") from None
        request = urllib.request.Request(address, data=data, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise UserError(f"{address}: HTTP {error.code}: {_message(error)}") from None
        except TimeoutError:
            raise UserError(f"{address}: no answer within {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise UserError(f"{address}: no answer within {self.timeout:g} s") from None
            raise UserError(
                f"{address}: no server answers there ({reason}); start it: {self.START}"
            ) from None
        try:
            return json.loads(text)
        except ValueError:
            raise UserError(f"{address}: the answer is not JSON; is that the server?") from None

    def unlike(self, path: str) -> UserError:
        """Return the error for an answer that lacks what the server's documentation says."""
        return UserError(f"{self.url}{path}: the answer is not as documented; is that the server?")


def embed(context: Context, query: str) -> Tensor:
    """Return a context and a query as embeddings, (positions, width), on the CPU.

    Raises UserError for an encoder-decoder LLM, and for numbers that are not finite.
    """
    if context.llm.model.config.is_encoder_decoder:
        raise UserError(
            f"{context.llm.model.config.model_type} is an encoder-decoder; servers take embeddings "
            "for decoder-only LLMs alone"
        )
    embeddings = context.prompt_embeds(query)
    if not embeddings.isfinite().all():
        raise UserError("the context has numbers that are not finite, so it is not sent")
    return embeddings


def _message(error: urllib.error.HTTPError) -> str:
    """Return what the server says is wrong, in one line."""
    try:
        text = error.read().decode("utf-8", "replace")
    except OSError:
        text = ""
    try:
        said = json.loads(text)
    except ValueError:
        said = text
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    line = " ".join(str(said).split())[:400]
    return line or str(error.reason)
