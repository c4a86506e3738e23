"""A model published on another host: its manifest and what a chat needs, fetched once and checked.

Rule of the file: what tabs would stumble over (no ranges, no permission for other origins, another
model) is said when the relay starts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import aiohttp

from ..errors import ConfigError, InputError
from ..formats.manifest import MAX_JSON_BYTES, ModelManifest
from ..inference.text import TextSettings
from ..inference.vocabulary import MAX_JSON_BYTES as MAX_TEXT_BYTES
from .publish import MANIFEST, TEXT

log = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds for each of the files
_ALLOW = "Access-Control-Allow-Origin"


@dataclass(frozen=True, slots=True)
class Published:
    """``base`` ends in a slash: the files of ``manifest`` lie there. ``text`` may be empty."""

    base: str
    manifest: ModelManifest
    text: str

    def check_same(self, other: ModelManifest) -> None:
        """``ConfigError`` unless ``other`` has the same tensors, wherever they lie."""
        mine, theirs = (
            {name: one.sha256 for name, one in it.tensors.items()} for it in (self.manifest, other)
        )
        if mine != theirs or self.manifest.config != other.config:
            raise ConfigError(f"{self.base} holds another model than --model; publish that one")


async def fetch_published(url: str) -> Published:
    """From the folder ``url``, or the address of the manifest in it. Raises ``ConfigError`` for a host
    that gives no ranges or no manifest, and ``ModelFileError`` for a broken one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"--model-url {url!r:.200} is no http or https address of a published model")
    base = url.removesuffix(MANIFEST).rstrip("/") + "/"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session:
            data = await _get(session, base + MANIFEST, MAX_JSON_BYTES)
            if data is None:
                raise ConfigError(f"{base} has no {MANIFEST}; make it with: kwaainet model split")
            manifest = ModelManifest.from_json(data)
            text = await _get(session, base + TEXT, 2 * MAX_TEXT_BYTES) or b""
            if text:
                TextSettings.from_json(text)
            await _check_ranges(session, base, next(iter(manifest.tensors.values())).file)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ConfigError(f"{base} cannot be read: {error or type(error).__name__}") from None
    except InputError as error:
        raise type(error)(f"{base}: {error}") from None
    return Published(base, manifest, text.decode())


async def _get(session: aiohttp.ClientSession, url: str, cap: int) -> bytes | None:
    async with session.get(url) as answer:
        if answer.status in (403, 404, 410):
            return None
        if answer.status != 200:
            raise ConfigError(f"{url} answers {answer.status} {answer.reason}")
        data = bytearray()
        async for chunk in answer.content.iter_chunked(1 << 16):
            data += chunk
            if len(data) > cap:
                raise ConfigError(f"{url} has more than the {cap} bytes allowed")
        return bytes(data)


async def _check_ranges(session: aiohttp.ClientSession, base: str, file: str) -> None:
    headers = {"Range": "bytes=0-0", "Origin": "http://localhost"}
    async with session.get(base + quote(file), headers=headers) as answer:
        if answer.status == 200:
            raise ConfigError(f"{base} ignores Range and would send all of {file}; take a host with Range")
        if answer.status != 206:
            raise ConfigError(f"{base}{file} answers {answer.status} {answer.reason}")
        if _ALLOW not in answer.headers:
            log.warning("%s sends no %s: only pages of its own origin can read it", base, _ALLOW)
