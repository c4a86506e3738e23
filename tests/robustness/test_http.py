"""Requests to the page's origin that no browser makes."""

from __future__ import annotations

import contextlib
import json
import socket
from urllib.parse import urlsplit

import pytest
from robustness.swarm import Swarm

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def answer(swarm: Swarm, request: bytes) -> bytes:
    """All that comes back for these bytes."""
    url = urlsplit(swarm.http)
    with socket.create_connection((url.hostname, url.port), 40) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(request)
        data = b""
        with contextlib.suppress(ConnectionError):
            while more := client.recv(65536):
                data += more
        return data


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


PATHS = {
    "/../../../../etc/passwd": 404,
    "/..%2f..%2f..%2f..%2fetc%2fpasswd": 404,
    "/%2e%2e/%2e%2e/%2e%2e/etc/passwd": 404,
    "//etc/passwd": 404,
    "/....//....//etc/passwd": 404,
    "/index.html%00.js": 404,
    "/%ff%fe": 404,
    "/" + "a" * 4000: 404,
    "/" + "a/" * 2000: 404,
    "/model/../../etc/passwd": 404,
    "/model/..%2fconfig.json": 404,
    "/model/config.json": 404,
    "/model/small-llama/config.json": 404,
    "/nothing.js": 404,
}
REQUESTS = {
    "no http": (b"\x00\x01\x02\x03\r\n\r\n", 400),
    "no path": (b"GET\r\n\r\n", 400),
    "another method": (b"BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
    "post": (b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", 405),
    "huge header": (HEAD + b"A: " + b"b" * 1_000_000 + b"\r\n\r\n", 400),
    "many headers": (HEAD + b"".join(b"A%d: b\r\n" % n for n in range(100_000)) + b"\r\n", 400),
    "huge path": (get("/" + "a" * 100_000), 400),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "split header": (HEAD + b"A: b\rB: c\r\n\r\n", 400),
}


@pytest.mark.parametrize("path", PATHS)
def test_nothing_outside_the_page_is_served(swarm: Swarm, path: str) -> None:
    got = answer(swarm, get(path))
    assert got.startswith(b"HTTP/1.1 %d " % PATHS[path]), got[:200]
    assert b"root:" not in got


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_are_none_are_refused(swarm: Swarm, name: str) -> None:
    request, status = REQUESTS[name]
    got = answer(swarm, request)
    words = got.split(b" ", 2)  # nothing at all if it hung up before all was sent
    assert not got or (words[0].startswith(b"HTTP/1.") and int(words[1]) == status), got


def test_ranges_of_files(swarm: Swarm) -> None:
    """As asked for, or refused; never more than there is."""
    whole = answer(swarm, get("/index.html")).partition(b"\r\n\r\n")[2]
    assert len(whole) > 100
    for range_, status, body in [
        ("bytes=0-9", 206, whole[:10]),
        ("bytes=-5", 206, whole[-5:]),
        (f"bytes={len(whole)}-", 416, None),
        ("bytes=9-3", 416, None),
        ("bytes=abc", 416, None),
        ("bytes=0-99999999999999999999", 206, whole),
        ("cabbages=1-2", 416, None),
    ]:
        head, _, got = answer(swarm, get("/index.html", f"Range: {range_}")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), (range_, head)
        assert body is None or got == body, range_


def test_it_still_tells_what_it_is(swarm: Swarm) -> None:
    description = json.loads(answer(swarm, get("/kwaainet.json")).partition(b"\r\n\r\n")[2])
    assert description["relay"] == [swarm.ws]
    assert description["model"] is None
