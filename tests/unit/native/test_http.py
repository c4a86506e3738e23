import asyncio
import contextlib
import json
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from kwaainet.errors import ConfigError
from kwaainet.native import http as module
from kwaainet.native.http import ModelFiles, Origin, parse_http_address, parse_ice_server, serve

Check = Callable[[aiohttp.ClientSession, str], Awaitable[None]]


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    assets = tmp_path / "assets"
    (assets / "sub").mkdir(parents=True)
    (assets / "index.html").write_text("<title>page</title>")
    (assets / "sub" / "a.mjs").write_text("export {}")
    (assets / "0123456789abcdef").mkdir()
    (assets / "0123456789abcdef" / "a.mjs").write_text("export {}")
    (tmp_path / "secret").write_text("no")
    (tmp_path / "m.gguf").write_bytes(bytes(range(256)))
    files = {"m.gguf": tmp_path / "m.gguf"}
    model = ModelFiles("tiny-hf", 3, '{"tensors":{}}', files, text='{"ü":1}')
    return Origin(assets, lambda: ["/ip4/127.0.0.1/tcp/1/ws/p2p/X"], "0.0", [model], lambda: {"peers": 2})


def visit(origin: Origin, check: Check, *, decompress: bool = True) -> None:
    async def main() -> None:
        runner, address = await serve(origin, "127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession(auto_decompress=decompress) as session:
                await check(session, address)
        finally:
            await runner.cleanup()

    asyncio.run(main())


def test_page_and_description(origin: Origin) -> None:
    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address) as page:
            assert await page.text() == "<title>page</title>"
            assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert page.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert page.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
            policy = page.headers["Content-Security-Policy"].split("; ")
            assert "default-src 'none'" in policy
            assert "script-src 'self' 'wasm-unsafe-eval'" in policy
            assert "frame-ancestors 'self'" in policy  # who contributes clicks on this page and on no other
        async with session.get(address + "kwaainet.json") as answer:
            description = await answer.json()
        assert abs(description["time"] - time.time()) < 60
        assert description["relay"] == ["/ip4/127.0.0.1/tcp/1/ws/p2p/X"]
        assert description["model"]["prefix"] == "tiny-hf"
        assert description["model"]["num_blocks"] == 3
        async with session.get(address + "status") as answer:
            assert await answer.json() == {"peers": 2}
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"

    visit(origin, check)


def test_pages_of_other_origins_may_load_what_the_sdk_needs(origin: Origin) -> None:
    workers = {"api": 1, "network": "/assets/network.js?v=1"}

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        for path in (
            "kwaainet.json",
            "sub/a.mjs",
            "model/tiny-hf/manifest.json",
            "model/tiny-hf/text.json",
            "model/tiny-hf/m.gguf",
        ):
            async with session.get(address + path) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == "*", path
                assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin", path
        async with session.get(address + "kwaainet.json") as answer:
            assert (await answer.json())["workers"] is None
        (origin.assets / "workers.json").write_text(json.dumps(workers))
        async with session.get(address + "kwaainet.json") as answer:
            assert (await answer.json())["workers"] == workers

    visit(origin, check)


def test_a_frame_has_the_pages_policy_and_a_package_index_its_folders(origin: Origin) -> None:
    (origin.assets / "embed.html").write_text("<title>frame</title>")
    (origin.assets / "simple" / "kwaainet").mkdir(parents=True)
    (origin.assets / "simple" / "kwaainet" / "index.html").write_text("<a href=x>x</a>")

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "embed.html") as frame:
            policy = frame.headers["Content-Security-Policy"]
            assert "script-src 'self' 'wasm-unsafe-eval'" in policy
            assert "frame-ancestors" not in policy, "it is made for frames"
        async with session.get(address + "simple/kwaainet/") as index:
            assert (index.status, index.content_type) == (200, "text/html")
            assert index.headers["Access-Control-Allow-Origin"] == "*"
        async with session.get(address + "simple/other/") as answer:
            assert answer.status == 404

    visit(origin, check)


def test_text_settings_are_immutable_under_an_address_that_names_their_hash(origin: Origin) -> None:
    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "kwaainet.json") as answer:
            text = (await answer.json())["model"]["text"]
        async with session.get(address + text["url"].removeprefix("/")) as settings:
            data = await settings.read()
            assert "immutable" in settings.headers["Cache-Control"]
        assert data == '{"ü":1}'.encode()
        assert text["size"] == len(data)
        assert text["integrity"] == "sha256-" + b64encode(sha256(data).digest()).decode()

    visit(origin, check)


def test_a_model_without_text_settings_offers_none(origin: Origin) -> None:
    origin.models = [replace(origin.models[0], text="")]

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "kwaainet.json") as answer:
            assert "text" not in (await answer.json())["model"]
        async with session.get(address + "model/tiny-hf/text.json") as answer:
            assert answer.status == 404

    visit(origin, check)


def test_model_is_served_by_range(origin: Origin) -> None:
    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "model/tiny-hf/m.gguf", headers={"Range": "bytes=10-19"}) as part:
            assert part.status == 206
            assert await part.read() == bytes(range(10, 20))
        async with session.get(address + "model/tiny-hf/m.gguf", headers={"Range": "bytes=300-"}) as beyond:
            assert beyond.status == 416
        async with session.get(address + "model/tiny-hf/manifest.json") as manifest:
            assert await manifest.json() == {"tensors": {}}
        async with session.get(address + "model/tiny-hf/other.gguf") as other:
            assert other.status == 404

    visit(origin, check)


class Hello:
    """Routes of somebody else's."""

    def routes(self) -> list[web.RouteDef]:
        async def hello(request: web.Request) -> web.Response:
            return web.Response(text="hello")

        return [web.get("/v1/hello", hello)]

    def status(self) -> dict[str, Any]:
        return {"hellos": 1}


def test_each_of_several_models_has_a_folder_of_its_own(origin: Origin) -> None:
    other = ModelFiles("a/b ü", 1, '{"tensors":{"model.layers.0.x":{"length":7}}}', {})
    origin.models = [*origin.models, other]

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "kwaainet.json") as answer:
            first, second = (await answer.json())["models"]
        assert (first["prefix"], second["prefix"], second["bytes"]) == ("tiny-hf", "a/b ü", 7)
        manifest = URL(address + second["manifest"].removeprefix("/"), encoded=True)
        async with session.get(manifest) as answer:
            assert await answer.text() == other.manifest
        async with session.get(URL(f"{manifest}".replace("manifest.json", "m.gguf"), encoded=True)) as answer:
            assert answer.status == 404

    visit(origin, check)


def test_an_api_stands_before_the_assets(origin: Origin) -> None:
    origin.api = Hello()

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "v1/hello") as answer:
            assert await answer.text() == "hello"
        async with session.get(address + "status.json") as answer:
            assert await answer.json() == {"peers": 2, "openai": {"hellos": 1}}

    visit(origin, check)


@pytest.mark.parametrize(
    "path", ["../secret", "sub/../../secret", "%2e%2e/secret", "sub", "none.js", "sub/%00"]
)
def test_nothing_outside_the_assets_is_served(origin: Origin, path: str) -> None:
    async def check(session: aiohttp.ClientSession, address: str) -> None:
        from yarl import URL

        async with session.get(URL(address + path, encoded=True)) as answer:
            assert answer.status == 404
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"

    visit(origin, check)


def test_scripts_have_their_type_and_versioned_assets_are_immutable(origin: Origin) -> None:
    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "sub/a.mjs?v=1") as script:
            assert script.content_type == "text/javascript"
            assert script.headers["Cross-Origin-Embedder-Policy"] == "require-corp"  # or it is no worker
            assert script.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
            assert "immutable" in script.headers["Cache-Control"]
        async with session.get(address + "0123456789abcdef/a.mjs") as script:
            assert "immutable" in script.headers["Cache-Control"]
        async with session.get(address + "sub/a.mjs") as script:
            assert script.headers["Cache-Control"] == "no-cache"

    visit(origin, check)


def test_what_lies_compressed_is_sent_so_to_who_takes_it(origin: Origin) -> None:
    folder = origin.assets / "0123456789abcdef"
    (folder / "memory.bin.br").write_bytes(b"compressed")

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        address += "0123456789abcdef/memory.bin"
        async with session.get(address, headers={"Accept-Encoding": "gzip, br"}) as answer:
            assert (answer.status, answer.headers["Content-Encoding"]) == (200, "br")
            assert answer.headers["Vary"] == "Accept-Encoding"
            assert "immutable" in answer.headers["Cache-Control"]
            assert await answer.read() == b"compressed"
        async with session.get(address, headers={"Accept-Encoding": "identity"}) as answer:
            assert answer.status == 404
        (folder / "memory.bin").write_bytes(b"plain")
        async with session.get(address, headers={"Accept-Encoding": "identity"}) as answer:
            assert (answer.status, await answer.read()) == (200, b"plain")

    visit(origin, check, decompress=False)


def test_a_relay_without_a_model_says_so(origin: Origin) -> None:
    origin.models = []

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "kwaainet.json") as answer:
            description = await answer.json()
        assert (description["model"], description["models"]) == (None, [])
        async with session.get(address + "model/tiny-hf/manifest.json") as answer:
            assert answer.status == 404
            assert "--model" in await answer.text()

    visit(origin, check)


def test_a_taken_port_is_said_plainly(origin: Origin) -> None:
    async def main() -> None:
        runner, address = await serve(origin, "127.0.0.1", 0)
        try:
            with pytest.raises(ConfigError, match="cannot serve HTTP"):
                await serve(origin, "127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))
        finally:
            await runner.cleanup()

    asyncio.run(main())


def test_assets_must_be_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make setup"):
        Origin(tmp_path, list, "0.0")


@pytest.mark.parametrize(("text", "pair"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0))])
def test_address(text: str, pair: tuple[str, int]) -> None:
    assert parse_http_address(text) == pair


@pytest.mark.parametrize("text", ["", "localhost", ":80", "h:", "h:99999", "h:x", "h:-1"])
def test_bad_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--http"):
        parse_http_address(text)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nLong: "])
def test_who_sends_no_whole_request_is_let_go(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        host, port = address.removeprefix("http://").strip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):  # it may be let go before all of that came
                assert await reader.read() == b""
        writer.close()

    visit(origin, check)


def test_an_expectation_that_is_no_text_is_not_logged_as_ours(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(session: aiohttp.ClientSession, address: str) -> None:
        host, port = address.removeprefix("http://").strip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: \xed\xa0\x80\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.read()).startswith(b"HTTP/1.1 500 ")
        writer.close()

    with caplog.at_level("WARNING"):
        visit(origin, check)
    assert caplog.records == []


@pytest.mark.parametrize("path", ["a" * 300, "%ff%fe", "..%2fsecret", "%00", "sub/" * 200 + "a.mjs"])
def test_a_path_that_no_file_can_have_is_not_found(origin: Origin, path: str) -> None:
    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(URL(address + path, encoded=True)) as answer:
            assert answer.status == 404

    visit(origin, check)


def test_ice_servers_are_told_to_the_page(origin: Origin) -> None:
    turn = {"urls": ["turn:t.example:3478?transport=tcp"], "username": "u", "credential": "c"}
    assert parse_ice_server("stun:s.example:3478") == {"urls": ["stun:s.example:3478"]}
    assert parse_ice_server("turn:t.example:3478?transport=tcp,u,c") == turn
    origin.ice_servers = [turn]

    async def check(session: aiohttp.ClientSession, address: str) -> None:
        async with session.get(address + "kwaainet.json") as answer:
            assert (await answer.json())["ice_servers"] == [turn]

    visit(origin, check)


@pytest.mark.parametrize(
    "text", ["", "s.example:1", "http:s", "stun:", "stun:s,u,c", "turn:t", "turn:t,u", "stun:a b"]
)
def test_what_is_no_ice_server_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--ice-server"):
        parse_ice_server(text)
