"""A published model is taken from any host that serves ranges; other hosts are named with what they lack."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from kwaainet.errors import ConfigError, KwaaiNetError, ModelFileError
from kwaainet.native.model import Model
from kwaainet.native.publish import MANIFEST, TEXT, publish
from kwaainet.native.published import Published, fetch_published


def fetched(folder: Path, tail: str = "", ranges: bool = True) -> Published:
    async def main() -> Published:
        app = web.Application()

        async def whole(request: web.Request) -> web.Response:
            return web.Response(body=(folder / request.match_info["name"]).read_bytes())

        if ranges:
            app.router.add_static("/m/", folder)
        else:
            app.router.add_get("/m/{name}", whole)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await fetch_published(f"http://127.0.0.1:{runner.addresses[0][1]}/m{tail}")
        finally:
            await runner.cleanup()

    return asyncio.run(main())


@pytest.fixture
def folder(tiny_model: Model, tmp_path: Path) -> Path:
    publish(tiny_model, tmp_path / "out", lambda progress: None, parts=0)
    return tmp_path / "out"


@pytest.mark.parametrize("tail", ["", "/", f"/{MANIFEST}"])
def test_the_folder_or_its_manifest_can_be_named(
    folder: Path, tiny_model: Model, tail: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        published = fetched(folder, tail)
    assert published.base.endswith("/m/")
    assert published.text == (folder / TEXT).read_text()
    assert "Access-Control-Allow-Origin" in caplog.text
    published.check_same(tiny_model.manifest)
    other = replace(tiny_model.config, rms_norm_eps=0.5)
    with pytest.raises(ConfigError, match="holds another model than --model"):
        published.check_same(replace(tiny_model.manifest, config=other))


def test_a_model_that_cannot_be_talked_to(folder: Path) -> None:
    (folder / TEXT).unlink()
    assert fetched(folder).text == ""


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (MANIFEST, None, ConfigError, r"has no manifest\.json; make it with: kwaainet model split"),
        (MANIFEST, b"{}", ModelFileError, r"http://.*: model manifest is not"),
        (MANIFEST, b" " * (9 << 20), ConfigError, r"more than the \d+ bytes"),
        (TEXT, b"[]", ModelFileError, "text settings"),
        ("outer.bin", None, ConfigError, r"outer\.bin answers 404"),
    ],
)
def test_broken_publications(
    folder: Path, name: str, content: bytes | None, error: type[KwaaiNetError], message: str
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(error, match=message):
        fetched(folder)


def test_hosts_that_cannot_be_used(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"ignores Range and would send all of outer\.bin"):
        fetched(folder, ranges=False)
    for url in ("/etc/passwd", "ftp://host/m", "http:///m"):
        with pytest.raises(ConfigError, match="no http or https address"):
            asyncio.run(fetch_published(url))
    with pytest.raises(ConfigError, match="cannot be read"):
        asyncio.run(fetch_published("http://127.0.0.1:1/m"))
