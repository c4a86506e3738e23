"""The socket on which an operator asks a relay: who may, how much, and what a bad request is told."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kwaainet.errors import ConfigError, RequestError, RpcError, Unreachable
from kwaainet.native import admin_socket as module
from kwaainet.native.admin_socket import MAX_CALLERS, MAX_REQUEST, ask, served


def answer(request: Mapping[str, Any]) -> Any:
    if request.get("ask") == "fail":
        raise ZeroDivisionError
    if request.get("ask") != "echo":
        raise RequestError("there is echo")
    return request["what"]


def with_socket(path: Path, test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with served(path, answer):
            await test()

    asyncio.run(asyncio.wait_for(main(), 60))


async def send(path: Path, data: bytes) -> Any:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    line = await reader.read()
    writer.close()
    return json.loads(line)


def test_a_request_is_answered_to_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test() -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        assert await ask(path, {"ask": "echo", "what": [1, "é"]}) == [1, "é"]
        with pytest.raises(RpcError, match="there is echo"):
            await ask(path, {"ask": "tea"})
        with pytest.raises(RpcError, match="see its log"):
            await ask(path, {"ask": "fail"})

    with_socket(path, test)
    assert not path.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\n", "one line of JSON"),
        (b"\xff\xfe\n", "one line of JSON"),
        (b"[" * 5000 + b"\n", "one line of JSON"),
        (b"[1]\n", "a JSON object"),
        (b" " * (MAX_REQUEST + 10) + b"\n", f"at most {MAX_REQUEST} bytes"),
    ],
)
def test_a_bad_request_is_told_why_and_harms_nobody(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "s"

    async def test() -> None:
        assert words in (await send(path, data))["error"]
        assert await ask(path, {"ask": "echo", "what": 1}) == 1

    with_socket(path, test)


def test_who_says_nothing_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.02)

    async def test() -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        assert await reader.read() == b""
        writer.close()

    with_socket(tmp_path / "s", test)


def test_so_many_ask_at_once_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test() -> None:
        waiting = [await asyncio.open_unix_connection(str(path)) for _ in range(MAX_CALLERS)]
        assert "try again" in (await send(path, b"{}\n"))["error"]
        for _, writer in waiting:
            writer.close()
        while True:
            try:
                assert await ask(path, {"ask": "echo", "what": 2}) == 2
                break
            except RpcError:
                await asyncio.sleep(0)

    with_socket(path, test)


def test_what_a_killed_process_left_is_taken_over_and_what_runs_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def test() -> None:
        assert await ask(path, {"ask": "echo", "what": 3}) == 3
        with pytest.raises(ConfigError, match="another relay runs"):
            async with served(path, answer):
                pass
        assert await ask(path, {"ask": "echo", "what": 4}) == 4

    with_socket(path, test)


def test_where_no_relay_runs_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no relay runs with"):
        asyncio.run(ask(tmp_path / "s", {"ask": "peers"}))


def test_a_path_too_long_for_a_socket_costs_only_the_socket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / ("a" * 120)
    folder.mkdir()

    async def test() -> None:
        assert "no admin socket" in caplog.text

    with_socket(folder / "s", test)
