"""Blobs and ranges in a tab: what is kept, what is tried again, what is an error at once."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest

from kwaainet.browser.store import ATTEMPTS, MAX_BREAKS, MISMATCH, BrowserSource, BrowserStore, RangeAnswer
from kwaainet.errors import KwaaiNetError, ModelFileError, Unreachable
from kwaainet.testing import compliance
from kwaainet.testing.clock import now, run

BASE = "http://origin/model/"


class MemoryFiles:
    """``BlobFiles``; ``problem`` is what writing says."""

    def __init__(self, problem: str = "") -> None:
        self.files: dict[str, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.problem = problem

    async def read(self, digest: str) -> bytes | None:
        return self.files.get(digest)

    async def read_part(self, digest: str) -> bytes | None:
        return self.parts.get(digest)

    async def write_part(self, digest: str, offset: int, data: bytes) -> str:
        before = self.parts.get(digest, b"") if offset else b""
        if offset != len(before):
            return "a gap"
        self.parts[digest] = before + data
        return ""

    async def write(self, digest: str, data: bytes) -> str:
        self.parts.pop(digest, None)
        if hashlib.sha256(data).hexdigest() != digest:
            return MISMATCH
        if not self.problem:
            self.files[digest] = data
        return self.problem


class FileServer:
    """``RangeFetcher`` over one file, as an HTTP server with Range answers."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.data = name, data

    async def fetch(self, url: str, offset: int, length: int) -> RangeAnswer:
        if unquote(url) != BASE + self.name:
            return RangeAnswer(404, -1, None, "Not Found")
        if offset >= len(self.data):
            return RangeAnswer(416, len(self.data), None, "Range Not Satisfiable")
        return RangeAnswer(206, len(self.data), self.data[offset : offset + length], "")


class Script:
    """``RangeFetcher`` that gives these answers one after the other, the last one for ever."""

    def __init__(self, *answers: RangeAnswer) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def fetch(self, url: str, offset: int, length: int) -> RangeAnswer:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


NO_NETWORK = RangeAnswer(0, -1, None, "Failed to fetch")
GOOD = RangeAnswer(206, 100, b"0123456789", "")


@pytest.mark.parametrize("check", compliance.STORE_CHECKS, ids=lambda check: str(check.__name__))
def test_store_checks(check: Any) -> None:
    run(check(BrowserStore(MemoryFiles())))


@pytest.mark.parametrize("check", compliance.SOURCE_CHECKS, ids=lambda check: str(check.__name__))
def test_source_checks(check: Any) -> None:
    run(check(BrowserSource(FileServer(compliance.SAMPLE_FILE, compliance.SAMPLE), BASE)))


def test_a_full_disk_is_logged_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    data = b"weights"
    with caplog.at_level(logging.WARNING):
        run(BrowserStore(MemoryFiles("no room")).put(hashlib.sha256(data).hexdigest(), data))
    assert "no room" in caplog.text


@pytest.mark.parametrize(
    "failure",
    [NO_NETWORK, RangeAnswer(503, -1, None, "busy"), RangeAnswer(206, 100, b"", "")],
    ids=["no network", "a busy server", "an empty body"],
)
def test_what_passes_is_tried_again_with_growing_waits(failure: RangeAnswer) -> None:
    async def main() -> None:
        script = Script(failure, failure, GOOD)
        began = now()
        assert await BrowserSource(script, BASE).read("f", 0, 10) == b"0123456789"
        assert script.asked == 3
        assert 1.0 < now() - began < 3.0

    run(main())


def test_an_answer_that_breaks_off_is_gone_on_with_where_it_was() -> None:
    asked: list[tuple[int, int]] = []

    class Breaking(FileServer):
        async def fetch(self, url: str, offset: int, length: int) -> RangeAnswer:
            asked.append((offset, length))
            answer = await super().fetch(url, offset, min(length, 4))
            return RangeAnswer(answer.status, answer.total, answer.body, "the connection broke")

    async def main() -> None:
        server = Breaking("f", b"0123456789")
        assert await BrowserSource(server, BASE).read("f", 0, 10) == b"0123456789"
        assert asked == [(0, 10), (4, 6), (8, 2)]

    run(main())


def test_a_server_that_breaks_off_for_ever_is_given_up() -> None:
    async def main() -> None:
        script = Script(RangeAnswer(206, 10_000, b"0", "the connection broke"))
        with pytest.raises(Unreachable, match="the connection broke"):
            await BrowserSource(script, BASE).read("f", 0, 5000)
        assert script.asked < MAX_BREAKS + ATTEMPTS

    run(main())


def test_a_network_that_stays_away_is_unreachable() -> None:
    async def main() -> None:
        script = Script(NO_NETWORK)
        with pytest.raises(Unreachable, match="Failed to fetch"):
            await BrowserSource(script, BASE).read("f", 0, 10)
        assert script.asked == ATTEMPTS

    run(main())


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (RangeAnswer(200, 5000, None, "OK"), Unreachable, "ignores Range"),
        (RangeAnswer(404, -1, None, ""), ModelFileError, "has no f"),
        (RangeAnswer(416, 7, None, ""), ModelFileError, "is 7 bytes"),
        (RangeAnswer(206, 12, b"01", ""), ModelFileError, "is 12 bytes"),
        (RangeAnswer(403, -1, None, "Forbidden"), Unreachable, "403 Forbidden"),
    ],
)
def test_what_cannot_pass_is_an_error_at_once(
    answer: RangeAnswer, error: type[KwaaiNetError], words: str
) -> None:
    async def main() -> None:
        script = Script(answer)
        with pytest.raises(error, match=words):
            await BrowserSource(script, BASE).read("f", 5, 10)
        assert script.asked == 1

    run(main())


def test_names_are_quoted_in_addresses() -> None:
    server = FileServer("a b#c.bin", b"0123")
    assert run(BrowserSource(server, BASE).read("a b#c.bin", 1, 2)) == b"12"


def test_a_digest_that_is_none_never_reaches_the_files() -> None:
    asked: list[str] = []

    class Watched(MemoryFiles):
        async def read(self, digest: str) -> bytes | None:
            asked.append(digest)
            return None

    store = BrowserStore(Watched())
    get: Callable[[str], Any] = store.get
    assert run(get("../identity")) is None
    assert asked == []
