"""The clients of vLLM and SGLang against a stand-in of both: text, and what goes wrong."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from helpers.models import random_llm
from helpers.saved import saved_distiller
from torch import Tensor

from mend import Distiller
from mend.errors import UserError
from mend.models.contexts import Contexts
from mend.models.frozen_llm import FrozenLLM
from mend.models.generation import generate
from mend.serving import SGLangClient, VLLMClient
from mend.serving.stand_in import StandIn

CLIENTS = [VLLMClient, SGLangClient]
QUERIES = ["w3 w9 w20", "w1", "w7 w8"]


@dataclass
class Prompt:
    """As much of a context as a client knows."""

    llm: FrozenLLM
    content: Contexts

    def prompt_embeds(self, query: str) -> Tensor:
        tokens = self.llm.tokenizer(query)["input_ids"]
        return self.llm.embeddings(self.content, [0], [tokens])[0].detach()


def context(llm: FrozenLLM, seed: int = 0) -> Prompt:
    vectors = torch.randn(1, 4, llm.width, generator=torch.Generator().manual_seed(seed))
    return Prompt(llm, llm.vector_context(vectors))


def here(one: Prompt, queries: list[str], **options) -> list[str]:
    """Return what the LLM writes without any server."""
    tokens = [one.llm.tokenizer(query)["input_ids"] for query in queries]
    found = generate(one.llm, one.content, [0] * len(queries), tokens, **options)
    return [one.llm.tokenizer.decode(row, skip_special_tokens=True) for row in found]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_writes_what_the_library_writes(client) -> None:
    llm = random_llm("llama")
    with StandIn(llm, "tiny") as server:
        found = client(server.url + "/v1/").generate(context(llm), QUERIES, max_new_tokens=6)
    assert found == here(context(llm), QUERIES, max_new_tokens=6)
    assert len(set(found)) == 3


@pytest.mark.parametrize("client", CLIENTS)
def test_a_distillers_context_is_served_as_it_generates(client, tmp_path) -> None:
    distiller = Distiller.from_pretrained(saved_distiller(tmp_path / "mend"))
    context = distiller.distill([("the azure deer", "beast"), ("that navy owl", "bird")])
    queries = ["the lime crow", "some cobalt salmon"]
    with StandIn(distiller.llm, "pocket") as server:
        found = client(server.url).generate(context, queries, max_new_tokens=5)
    assert found == distiller.generate(context, queries, max_new_tokens=5)


@pytest.mark.parametrize("client", CLIENTS)
def test_many_queries_have_a_context_each(client) -> None:
    llm = random_llm("llama")
    contexts = [context(llm, seed) for seed in range(18)]
    with StandIn(llm, "tiny") as server:
        found = client(server.url).generate(contexts, ["w3"] * 18, max_new_tokens=3)
        assert len(server.requests) == (2 if client is VLLMClient else 18)
    assert found == [here(one, ["w3"], max_new_tokens=3)[0] for one in contexts]


@pytest.mark.parametrize("client", CLIENTS)
def test_writing_ends_at_a_stop_which_is_not_returned(client) -> None:
    llm = random_llm("llama")
    [whole] = here(context(llm), ["w1"], max_new_tokens=6)
    third = whole.split()[2]
    with StandIn(llm, "tiny") as server:
        found = client(server.url).generate(context(llm), ["w1"], max_new_tokens=6, stop=third)
    assert found == [whole[: whole.index(third)]]


def test_settings_of_the_server_reach_it_by_its_own_names() -> None:
    llm = random_llm("llama")
    with StandIn(llm, "tiny") as server:
        client = VLLMClient(server.url)
        options = {"max_new_tokens": 8, "temperature": 2.0}
        first = client.generate(context(llm), ["w1"], seed=1, **options)
        assert server.requests[0]["seed"] == 1
        assert client.generate(context(llm), ["w1"], seed=1, **options) == first
        assert client.generate(context(llm), ["w1"], seed=2, **options) != first


@pytest.mark.parametrize("client", CLIENTS)
def test_embeddings_that_are_switched_off_are_told_with_the_servers_own_words(client) -> None:
    llm = random_llm()
    with (
        StandIn(llm, "tiny", takes_embeddings=False) as server,
        pytest.raises(UserError, match=r"HTTP 400: .*--(enable-prompt-embeds|disable-radix-cache)"),
    ):
        client(server.url).generate(context(llm), QUERIES)


@pytest.mark.parametrize("client", CLIENTS)
def test_another_width_is_told(client) -> None:
    with (
        StandIn(random_llm(), "tiny") as server,
        pytest.raises(UserError, match="do not match the model's hidden size of 16"),
    ):
        client(server.url).generate(context(random_llm(width=8)), QUERIES)


@pytest.mark.parametrize("client", CLIENTS)
def test_another_model_is_told_with_the_one_that_is_served(client) -> None:
    llm = random_llm()
    with (
        StandIn(llm, "tiny") as server,
        pytest.raises(UserError, match="serves tiny, and not large"),
    ):
        client(server.url, model="large").generate(context(llm), QUERIES)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_key_is_sent(client) -> None:
    llm = random_llm()
    with StandIn(llm, "tiny", api_key="secret") as server:
        assert client(server.url, api_key="secret").generate(context(llm), ["w1"])
        with pytest.raises(UserError, match="HTTP 401: Unauthorized"):
            client(server.url).generate(context(llm), ["w1"])


@pytest.mark.parametrize("client", CLIENTS)
def test_no_server_is_told_with_how_to_start_one(client) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(UserError, match=f"no server answers there .*; start it: {client.START}"):
        client(f"http://127.0.0.1:{port}").generate(context(random_llm()), QUERIES)


@contextmanager
def answering(status: int, text: bytes) -> Iterator[str]:
    """Serve one answer to whatever is asked, and give the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (200, b"<html>", "the answer is not JSON"),
        (200, b"{}", "the answer is not as documented"),
        (500, b'{"object": "error", "message": "it\\nfailed"}', "HTTP 500: it failed$"),
        (502, b"", "HTTP 502: Bad Gateway$"),
        (422, b'{"detail": "no such field"}', "HTTP 422: no such field$"),
    ],
)
def test_other_answers_are_told_in_one_line(client, status, text, message) -> None:
    with answering(status, text) as url, pytest.raises(UserError, match=message):
        client(url).generate(context(random_llm()), QUERIES)


def test_a_server_that_does_not_answer_in_time_is_told() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = VLLMClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        with pytest.raises(UserError, match="no answer within 0.2 s"):
            client.generate(context(random_llm()), QUERIES)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", ""])
def test_what_is_no_address_is_refused(url) -> None:
    with pytest.raises(UserError, match="is no server's address"):
        VLLMClient(url)


def test_what_cannot_be_sent_is_refused() -> None:
    llm = random_llm()
    with StandIn(llm, "tiny") as server:
        client = VLLMClient(server.url)
        with pytest.raises(UserError, match="2 contexts and 3 queries"):
            client.generate([context(llm)] * 2, QUERIES)
        with pytest.raises(UserError, match="max_tokens is decided by"):
            client.generate(context(llm), QUERIES, max_tokens=3)
        with pytest.raises(UserError, match="n is decided by"):
            SGLangClient(server.url).generate(context(llm), QUERIES, n=2)
        with pytest.raises(UserError, match="encoder-decoder"):
            client.generate(context(random_llm("t5")), QUERIES)
        broken = llm.vector_context(torch.full((1, 2, 16), float("nan")))
        with pytest.raises(UserError, match="not finite"):
            client.generate(Prompt(llm, broken), QUERIES)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/completions", {"model": "tiny"}, "prompt_embeds: Field required"),
        ("/v1/completions", {"model": "tiny", "prompt_embeds": "%"}, "no base64"),
        ("/v1/completions", {"model": "tiny", "prompt_embeds": "AAAA"}, "no tensor"),
        (
            "/v1/completions",
            {"model": "tiny", "prompt_embeds": "AA", "top": 1},
            "top: Extra inputs",
        ),
        (
            "/generate",
            {"input_embeds": [[0.5], [0.5, 1.0]]},
            "the rows of an embedding have one width",
        ),
        ("/generate", {"input_embeds": "AAAA"}, "input_embeds"),
    ],
)
def test_the_stand_in_refuses_what_is_not_in_the_schema(path, body, message) -> None:
    with StandIn(random_llm(), "tiny") as server, pytest.raises(UserError, match=message):
        VLLMClient(server.url).request(path, body)
