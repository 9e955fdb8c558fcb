"""A stand-in for a vLLM or an SGLang server, for tests and examples on machines without a GPU.

It is neither: no kernel, scheduler or cache of theirs runs here. It checks each request against the
part of the servers' documented schemas that the clients use, refuses all else, and answers from an
LLM of transformers by `inputs_embeds`. It listens on this machine alone.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from mend.models.frozen_llm import FrozenLLM

#: Bytes of a request that are read at most.
LONGEST_REQUEST = 2**28


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class CompletionRequest(_Schema):
    """What vLLM's `/v1/completions` is asked, as far as the client asks it."""

    model: str
    prompt_embeds: str | list[str] = Field(min_length=1)
    max_tokens: int = Field(16, ge=1)
    temperature: float = Field(1.0, ge=0)
    stop: str | list[str] = []
    seed: int | None = None


class SamplingParams(_Schema):
    """How SGLang chooses tokens, as far as the client says it."""

    max_new_tokens: int = Field(128, ge=1)
    temperature: float = Field(1.0, ge=0)
    stop: str | list[str] = []


class GenerateRequest(_Schema):
    """What SGLang's `/generate` is asked, as far as the client asks it."""

    input_embeds: list[list[float]] = Field(min_length=1)
    sampling_params: SamplingParams = SamplingParams()


class _RefusedError(Exception):
    """A request that such a server refuses, with its status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class StandIn:
    """A server on this machine that stands in for vLLM or SGLang, in a `with` statement.

    llm: the LLM that answers. name: what it is served as. takes_embeddings: as if vLLM was started
    with `--enable-prompt-embeds`, and SGLang with `--disable-radix-cache`. api_key: what requests
    must bring as a bearer token. url: its address; requests: the bodies that came.
    """

    def __init__(
        self,
        llm: FrozenLLM,
        name: str,
        takes_embeddings: bool = True,
        api_key: str | None = None,
    ) -> None:
        """Take a free port; it is served on from `__enter__` on."""
        self.llm, self.name, self.takes_embeddings = llm, name, takes_embeddings
        self.api_key = api_key
        self.requests: list[Any] = []
        self._one_at_a_time = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> StandIn:
        """Start to serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to serve."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: Any) -> Any:
        """Return what such a server answers; raises _RefusedError if it refuses."""
        match method, path:
            case "GET", "/v1/models":
                return {"object": "list", "data": [{"id": self.name, "object": "model"}]}
            case "POST", "/v1/completions":
                return self._complete(_parsed(CompletionRequest, body))
            case "POST", "/generate":
                return self._generate(_parsed(GenerateRequest, body))
        raise _RefusedError("Not Found", 404)

    def _complete(self, request: CompletionRequest) -> dict[str, Any]:
        if request.model != self.name:
            raise _RefusedError(f"The model `{request.model}` does not exist.", 404)
        if not self.takes_embeddings:
            raise _RefusedError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        sent = request.prompt_embeds
        embeddings = [decode(one) for one in ([sent] if isinstance(sent, str) else sent)]
        texts = self._texts(
            embeddings, request.max_tokens, request.temperature, request.stop, request.seed
        )
        choices = [{"index": index, "text": text} for index, text in enumerate(texts)]
        return {"object": "text_completion", "model": self.name, "choices": choices}

    def _generate(self, request: GenerateRequest) -> Any:
        if not self.takes_embeddings:
            raise _RefusedError(
                "input_embeds is provided while disable_radix_cache is False; add "
                "`--disable-radix-cache` when you launch the server"
            )
        rows, how = request.input_embeds, request.sampling_params
        if len({len(row) for row in rows}) != 1:
            raise _RefusedError("input_embeds: the rows of an embedding have one width")
        embedding = torch.tensor(rows)
        [text] = self._texts([embedding], how.max_new_tokens, how.temperature, how.stop)
        return {"text": text, "meta_info": {}}

    def _texts(
        self,
        embeddings: Sequence[Tensor],
        new_tokens: int,
        temperature: float,
        stop: str | Sequence[str],
        seed: int | None = None,
    ) -> list[str]:
        """Return what the LLM writes after each embedding, (positions, width), up to a stop."""
        stops = [stop] if isinstance(stop, str) else list(stop)
        options: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": new_tokens}
        if temperature > 0:
            options["temperature"] = temperature
        return [self._text(one, stops, seed, options) for one in embeddings]

    def _text(
        self, embedding: Tensor, stops: Sequence[str], seed: int | None, options: dict[str, Any]
    ) -> str:
        if embedding.ndim != 2 or embedding.shape[1] != self.llm.width:
            raise _RefusedError(
                f"embeddings of shape {tuple(embedding.shape)} do not match the model's hidden "
                f"size of {self.llm.width}"
            )
        if len(embedding) + options["max_new_tokens"] > self.llm.positions:
            raise _RefusedError(
                f"This model's maximum context length is {self.llm.positions} tokens; the prompt "
                f"has {len(embedding)}, and {options['max_new_tokens']} are asked for"
            )
        vectors = embedding[None].to(self.llm.device, self.llm.dtype)
        with self._one_at_a_time:  # transformers' sampling has one seed for all
            if seed is not None:
                torch.manual_seed(seed)
            ones = torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device)
            tokens = self.llm.model.generate(inputs_embeds=vectors, attention_mask=ones, **options)
        text = self.llm.tokenizer.decode(tokens[0], skip_special_tokens=True)
        return text[: min((place for s in stops if (place := text.find(s)) >= 0), default=None)]


def decode(sent: str) -> Tensor:
    """Return the embeddings, (positions, width), in base64 of what `torch.save` wrote."""
    try:
        binary = base64.b64decode(sent, validate=True)
    except binascii.Error as error:
        raise _RefusedError(f"prompt_embeds: no base64: {error}") from None
    try:
        tensor = torch.load(io.BytesIO(binary), weights_only=True, map_location="cpu")
    except Exception as error:  # torch has no one error for what it cannot read
        raise _RefusedError(f"prompt_embeds: no tensor: {type(error).__name__}") from None
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise _RefusedError("prompt_embeds: no tensor of floating-point numbers")
    return tensor.to_dense()


def _parsed(kind: type[_Schema], body: Any) -> Any:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _RefusedError(f"{place}: {first['msg']}") from None


class _Server(ThreadingHTTPServer):
    """Lets many clients wait at once: more than may would be sent away on a busy machine."""

    daemon_threads = True
    request_queue_size = 128


def _handler(served: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            try:
                status, answer = 200, served.answer(method, self.path, self._body(method))
            except _RefusedError as error:
                status, answer = error.status, {"error": {"message": str(error)}}
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _body(self, method: str) -> Any:
            size = int(self.headers.get("Content-Length") or 0)
            if size > LONGEST_REQUEST:
                raise _RefusedError("the request is too long", 413)
            text = self.rfile.read(size)
            token = self.headers.get("Authorization")
            if served.api_key and token != f"Bearer {served.api_key}":
                raise _RefusedError("Unauthorized", 401)
            if method == "GET":
                return None
            try:
                body = json.loads(text)
            except ValueError:
                raise _RefusedError("the request is not JSON") from None
            served.requests.append(body)
            return body

        def log_message(self, *_: object) -> None:
            """Say nothing: the client says what is wrong."""

    return Handler
