"""Requests to the OpenAI endpoint that no client sends: refused, and no harm to those beside them."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from interop.running import KWAAINET, started
from robustness.small_model import PREFIX
from robustness.swarm import MEGA, ONE_THREAD, Swarm, Watched, until

PATIENCE = 120.0
ASKED = {"model": PREFIX, "prompt": "hello", "max_tokens": 8, "temperature": 0}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Api:
    """The endpoint as a process of its own, and what it answers to an honest request."""

    def __init__(self, address: str, watched: Watched) -> None:
        url = urlsplit(address)
        self.place = (str(url.hostname), int(url.port or 0))
        self.watched = watched
        self.expected = self.honest()

    def honest(self) -> str:
        status, body = self.post(json.dumps(ASKED).encode())
        assert status == 200, body
        return str(body["choices"][0]["text"])

    def post(self, body: Any, path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection(*self.place, timeout=PATIENCE)) as connection:
            sent = {"Content-Type": "application/json", **headers}
            connection.request("POST", path, body, sent)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def status(self) -> Any:
        with contextlib.closing(http.client.HTTPConnection(*self.place, timeout=PATIENCE)) as connection:
            connection.request("GET", "/status.json")
            return json.loads(connection.getresponse().read())["openai"]

    def connect(self, data: bytes) -> socket.socket:
        client = socket.create_connection(self.place, PATIENCE)
        client.sendall(data)
        return client


@pytest.fixture(scope="module")
def endpoint(swarm: Swarm) -> Iterator[Api]:
    command = [KWAAINET, "api", "-v", "--model", swarm.model, "--prefix", PREFIX, "--http", "127.0.0.1:0"]
    command += ["--initial-peers", swarm.tcp, "--api-sessions", "64"]
    with started(command, swarm.folder, "api", ONE_THREAD) as running:
        yield Api(running.event("ready")["http"], Watched(running))


@pytest.fixture
def api(endpoint: Api) -> Iterator[Api]:
    """After each attack an honest request gets its answer, and nothing is left of the attack's."""
    endpoint.watched.mark()
    yield endpoint
    assert endpoint.honest() == endpoint.expected
    until(lambda: endpoint.status()["in_flight"] == 0, "the end of every request")
    endpoint.watched.is_unharmed()
    assert endpoint.watched.growth < 64 * MEGA


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    1e308,
    10**30,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    [None],
    {},
    {"a": {"b": []}},
]
FIELDS = ["model", "messages", "prompt", "stop", "n", "seed", "temperature", "top_p", "top_k", "stream"]
FIELDS += ["stream_options", "max_tokens", "max_completion_tokens", "tools", "logit_bias", "response_format"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_every_field_of_every_type(api: Api, path: str) -> None:
    honest = {**ASKED, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    honest.pop("prompt" if "chat" in path else "messages")
    for field in FIELDS:
        for value in VALUES:
            with contextlib.suppress(json.JSONDecodeError):  # a stream
                status, body = api.post(json.dumps({**honest, field: value}), path)
                assert status in (200, 400, 404), (field, value, body)
                assert status == 200 or body["error"]["message"], (field, value)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b"[]", b"\xff\xfe{}", b"[" * 500_000, b'{"a":' * 100_000, b'"' * 100_000,
        b'{"model":' + b"9" * 100_000 + b"}", b'{"model":NaN}', b'{"model":"m","prompt":' + b"[1," * 99_000,
        json.dumps({**ASKED, "prompt": "x" * 900_000}).encode(),
        json.dumps({**ASKED, "prompt": list(range(100_000))}).encode(),
        json.dumps({**ASKED, "stop": ["a" * 200_000] * 4}).encode(),
    ],
    ids=range(14),
)  # fmt: skip
def test_bodies_that_are_no_request(api: Api, body: bytes) -> None:
    status, answer = api.post(body)
    assert status == 400
    assert len(answer["error"]["message"]) < 500


def test_bodies_without_end(api: Api) -> None:
    for length in (b"Content-Length: 99999999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        with api.connect(HEAD + length) as client, contextlib.suppress(ConnectionError):
            piece = b"10000\r\n" + b" " * 65536 + b"\r\n" if b"chunked" in length else b" " * 65536
            for _ in range(64):
                client.sendall(piece)
            assert b" 413 " in client.recv(65536)
    for broken in (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Content-Length: -5\r\n\r\n"):
        with api.connect(HEAD + broken) as client, contextlib.suppress(ConnectionError):
            assert b" 400 " in client.recv(65536)
    with api.connect(
        HEAD.replace(b"application/json", b"text/plain") + b"Content-Length: 2\r\n\r\n{}"
    ) as client:
        assert b" 415 " in client.recv(65536)
    with api.connect(HEAD.replace(b"localhost", b"evil.example") + b"Content-Length: 2\r\n\r\n{}") as client:
        assert b" 403 " in client.recv(65536)


def test_bodies_that_never_arrive_keep_nobody_waiting(api: Api) -> None:
    with contextlib.ExitStack() as stack:
        for count in range(60):
            sent = HEAD + b"Content-Length: 1000\r\n\r\n" + b"{" * (count % 3)
            stack.enter_context(api.connect(sent if count % 2 else HEAD[: -count - 1]))
        assert api.honest() == api.expected


def test_who_asks_and_leaves_or_does_not_read(api: Api) -> None:
    body = json.dumps({**ASKED, "max_tokens": 100, "stream": True, "n": 4}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with contextlib.ExitStack() as stack:
        for count in range(12):
            client = api.connect(request)
            if count % 2:
                stack.enter_context(client)  # stays, and reads nothing
            else:
                client.close()
        assert api.honest() == api.expected
