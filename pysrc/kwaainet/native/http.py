"""The HTTP origin of the page: static assets, the model by byte range, and what a tab must know to start.

aiohttp serves files with Range and conditional requests of its own. Rule of the file: nothing here
knows a model format or a wire; it hands out files and one JSON document.

Every page of the origin is cross-origin isolated, which threads need (HTML's COOP and COEP). COEP is
``require-corp``, which every browser knows (``credentialless`` Safari does not), and it costs nothing here:
our own assets are of the origin, a model on another host is fetched by CORS, which COEP lets pass,
and it does not apply to WebSocket and WebRTC. The page and the assets are for everybody, so that they
say ``cross-origin``: an isolated page elsewhere may load the scripts and frame what is made for frames, which
it otherwise could not. (A frame is isolated only in an isolated page that allows it; else the engine has one
thread.)
Everything else, such as what the gateway answers, is for this origin's own pages and who asks by CORS.
"""

from __future__ import annotations

import json
import logging
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from aiohttp import ClientConnectionResetError, web
from aiohttp.http_exceptions import HttpProcessingError

from ..errors import ConfigError
from ..libp2p.admission import Admission
from .doors import Doors
from .guarded_site import guarded_by, told_of_ends
from .open_files import VISITORS
from .secure_site import DoorSite, forwarded_by, shown_address
from .visitors import Visitors

log = logging.getLogger(__name__)

MIME_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
IDLE_SECONDS = 60.0  # how long a connection may wait for a request, or take over the head of one
IMMUTABLE = "public, max-age=31536000, immutable"
VERSIONED = re.compile(
    r"(^|/)([0-9a-f]{16}/|chunk-[0-9A-Z]{8}\.)"
)  # addresses that build/web.mjs gives a hash
CORP = "Cross-Origin-Resource-Policy"
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next line: SharedArrayBuffer, so threads,
    "Cross-Origin-Embedder-Policy": "require-corp",  # and a clock of 5 us instead of 100
    CORP: "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PUBLIC = {  # what pages of other origins may load: the SDK's workers, the embed's frame and all they need
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Content-Range",
    CORP: "cross-origin",
}

CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",  # no eval but that of WebAssembly
        "worker-src 'self' blob:",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self' ws: wss:{host}",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the origin offers of one model: its manifest as JSON text and its files by name.

    ``repository`` is the address of its page, by which health monitors list it; may be empty.
    ``base`` is where tabs find the files if on another host; empty: below ``address``.
    ``text`` is the JSON of its ``TextSettings``, empty where a chat cannot be had.
    """

    prefix: str
    num_blocks: int
    manifest: str
    files: Mapping[str, Path]
    repository: str = ""
    text: str = ""
    base: str = ""

    @property
    def address(self) -> str:
        """The folder of this origin in which it is described."""
        return f"/model/{quote(self.prefix, safe='')}/"


class Api(Protocol):
    """More routes for the origin, and what ``/status.json`` says of them under ``openai``."""

    def routes(self) -> Sequence[web.RouteDef]: ...

    def status(self) -> dict[str, Any]: ...


class Site(Protocol):
    """Anything that is served."""

    def application(self) -> web.Application: ...


@dataclass(slots=True)
class Origin:
    """The site a relay serves. ``assets`` is the built web folder; addresses are read at each request;
    ``more`` are routes of others."""

    assets: Path
    relay_addresses: Callable[[], list[str]]
    version: str
    models: Sequence[ModelFiles] = ()
    status: Callable[[], dict[str, Any]] = field(default=dict)
    ice_servers: Sequence[Mapping[str, Any]] = ()
    api: Api | None = None
    more: Sequence[web.RouteDef] = ()
    near_bits: Callable[[], int] = lambda: 0  # of its place that a tab's id should share with the relay's

    def __post_init__(self) -> None:
        if not (self.assets / "index.html").is_file():
            raise ConfigError(f"{self.assets} holds no built page (index.html is missing); run: make setup")

    def application(self) -> web.Application:
        """The aiohttp application with every route of the origin."""
        app = web.Application(middlewares=[_isolate])
        app.router.add_get("/", self._page)
        app.router.add_get("/kwaainet.json", self._describe)
        app.router.add_get("/status", self._status)  # as relays of Syncthing have it
        app.router.add_get("/status.json", self._status)
        app.router.add_get("/model/{model}/manifest.json", self._manifest)
        app.router.add_get("/model/{model}/text.json", self._text)
        app.router.add_get("/model/{model}/{name}", self._model_file)
        if self.api is not None:
            app.add_routes(self.api.routes())
        app.add_routes(self.more)
        app.router.add_get("/{path:.+}", self._asset)
        return app

    async def _page(self, request: web.Request) -> web.StreamResponse:
        # No other page may lay its own over the button that contributes; embed.html is made for frames.
        policy = f"{self._policy()}; frame-ancestors 'self'"
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": policy, **PUBLIC}
        return web.FileResponse(self.assets / "index.html", headers=headers)

    def _policy(self) -> str:
        """What the page and its workers may load: from here, the model's host, and relays by WebSocket."""
        hosts = {"/".join(model.base.split("/")[:3]) for model in self.models if model.base}
        return CONTENT_POLICY.format(host="".join(f" {host}" for host in sorted(hosts)))

    async def _describe(self, request: web.Request) -> web.Response:
        models = [_describe(model) for model in self.models]
        return web.json_response(
            {
                "version": self.version,
                "time": time.time(),  # a laptop's clock may be wrong
                "relay": self.relay_addresses(),
                "near_bits": self.near_bits(),
                "ice_servers": list(self.ice_servers),
                "model": models[0] if models else None,  # for who names none
                "models": models,
                "workers": self._workers(),
            },
            headers=PUBLIC,
        )

    def _workers(self) -> Any:
        """Where the built workers are, as the build wrote it down; read anew, for it may build again."""
        built = self.assets / "workers.json"
        return json.loads(built.read_bytes()) if built.is_file() else None

    async def _status(self, request: web.Request) -> web.Response:
        more = {} if self.api is None else {"openai": self.api.status()}
        return web.json_response({**self.status(), **more})

    def _model(self, request: web.Request) -> ModelFiles:
        name = request.match_info["model"]
        for model in self.models:
            if model.prefix == name:
                return model
        raise web.HTTPNotFound(
            text="no such model here (--model PATH); /kwaainet.json names those there are\n"
        )

    async def _manifest(self, request: web.Request) -> web.Response:
        manifest = self._model(request).manifest
        response = web.Response(text=manifest, content_type="application/json", headers=PUBLIC)
        response.enable_compression()
        return response

    async def _text(self, request: web.Request) -> web.Response:
        text = self._model(request).text
        if not text:
            raise web.HTTPNotFound(text="this model has no tokenizer that is known here\n")
        response = web.Response(text=text, content_type="application/json", headers=PUBLIC)
        response.headers["Cache-Control"] = IMMUTABLE if request.query_string else "no-cache"
        response.enable_compression()
        return response

    async def _model_file(self, request: web.Request) -> web.StreamResponse:
        path = self._model(request).files.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound(text="no such model file; the model's manifest.json names them\n")
        return web.FileResponse(path, headers={"Cache-Control": "no-cache", **PUBLIC})

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["path"]
        name += "index.html" if name.endswith("/") else ""  # a package index is folders
        try:
            path = (self.assets / name.replace("\0", "")).resolve()
            found = path.is_relative_to(self.assets.resolve()) and (
                path.is_file() or path.with_name(f"{path.name}.br").is_file()  # what aiohttp sends instead
            )
        except (OSError, ValueError):  # a name too long, or of characters, that no file can have
            found = False
        if not found:
            raise web.HTTPNotFound(text="no such file\n")
        versioned = request.query_string or VERSIONED.search(name)
        headers = {"Cache-Control": IMMUTABLE if versioned else "no-cache", **PUBLIC}
        if path.suffix in MIME_TYPES:
            headers["Content-Type"] = MIME_TYPES[path.suffix]
        if path.suffix in (*MIME_TYPES, ".html"):
            headers["Content-Security-Policy"] = self._policy()  # of workers, and of the embed's frame
        return web.FileResponse(path, headers=headers)


def _describe(model: ModelFiles) -> dict[str, Any]:
    return {
        "prefix": model.prefix,
        "num_blocks": model.num_blocks,
        "manifest": f"{model.address}manifest.json",
        "files": model.base or model.address,
        "bytes": _block_bytes(model.manifest),
        "repository": model.repository,
        **({"text": _text_file(model)} if model.text else {}),
    }


@lru_cache(maxsize=16)
def _block_bytes(manifest: str) -> int:
    """Bytes of all blocks' tensors: the most that a tab fetches of a model."""
    tensors = json.loads(manifest).get("tensors", {}) if manifest else {}
    return sum(int(entry["length"]) for name, entry in tensors.items() if ".layers." in name)


@lru_cache(maxsize=16)
def _digest(text: str) -> tuple[int, bytes]:
    data = text.encode()
    return len(data), sha256(data).digest()


def _text_file(model: ModelFiles) -> dict[str, Any]:
    """Where the text settings are, their size and what a browser's ``fetch`` checks them by."""
    size, digest = _digest(model.text)
    url = f"{model.address}text.json?v={digest.hex()[:16]}"
    return {"url": url, "size": size, "integrity": f"sha256-{b64encode(digest).decode()}"}


def _as_the_clients_fault(record: logging.LogRecord) -> bool:
    """aiohttp logs a malformed request as an error of ours, with a traceback: make it a line."""
    error = record.exc_info[1] if record.exc_info else None
    theirs = (HttpProcessingError, web.RequestPayloadError, ClientConnectionResetError)  # the last: it left
    if isinstance(error, theirs) or _is_of_expect(error):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg = f"{record.getMessage()}: {' '.join(str(error).split())[:200]}"
        record.args = record.exc_info = record.exc_text = None
        return log.isEnabledFor(logging.INFO)
    return True


def _is_of_expect(error: BaseException | None) -> bool:
    """aiohttp repeats an unknown ``Expect`` in its answer, and fails where that is no UTF-8."""
    frame = error.__traceback__ if isinstance(error, UnicodeEncodeError) else None
    while frame is not None and frame.tb_frame.f_code.co_name != "_default_expect_handler":
        frame = frame.tb_next
    return frame is not None


_http_log = logging.getLogger("kwaainet.native.aiohttp")
_http_log.addFilter(_as_the_clients_fault)


@web.middleware
async def _isolate(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        _add_isolation(error)
        raise
    _add_isolation(response)
    return response


def _add_isolation(response: web.StreamResponse) -> None:
    for name, value in ISOLATION.items():
        response.headers.setdefault(name, value)


async def serve(
    site: Site,
    host: str,
    port: int,
    doors: Doors | None = None,
    admission: Admission | None = None,
    visitors: int = VISITORS,
) -> tuple[web.AppRunner, str]:
    """Start serving; returns the runner (``await runner.cleanup()`` ends it) and the site's address.

    With a certificate in ``doors`` it is served over TLS; on a port that is shared, relay listeners pass on
    what is not theirs. What is done for a request ends when its connection does. ``admission``: who may
    ask. ``visitors``: how many sockets there may be.
    """
    doors = doors or Doors()
    app = site.application()
    counted = Visitors(doors, admission, visitors)
    app.middlewares.insert(0, guarded_by(admission, counted))
    app.middlewares.insert(0, forwarded_by(doors))
    runner = web.AppRunner(
        app,
        access_log_class=told_of_ends(counted),
        keepalive_timeout=IDLE_SECONDS,
        logger=_http_log,
        handler_cancellation=True,
        auto_decompress=False,  # nobody needs it, and a small body stays small
    )
    await runner.setup()
    assert runner.server is not None
    counted.make = runner.server
    if port in doors.shared:
        doors.site = counted
        doors.url = shown_address(host, port, doors)
        return runner, doors.url
    listener = DoorSite(runner, counted, host, port, doors)
    try:
        await listener.start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(
            f"cannot serve HTTP on {host}:{port}: {error.strerror}; choose another --http"
        ) from None
    bound_host, bound_port = runner.addresses[0][:2]
    doors.url = shown_address(bound_host, bound_port, doors)
    return runner, doors.url


def parse_ice_server(text: str) -> dict[str, Any]:
    """``stun:HOST:PORT`` or ``turn:HOST:PORT,USERNAME,CREDENTIAL`` as ``RTCIceServer``; else ``ConfigError``.

    Every page of the origin is told all of it, the credential included.
    """
    url, *account = text.split(",")
    scheme, _, address = url.partition(":")
    host = address.removesuffix("?transport=udp").removesuffix("?transport=tcp")
    wanted = {"stun": 0, "stuns": 0, "turn": 2, "turns": 2}.get(scheme)
    if wanted != len(account) or not all(account) or not host or set(host) & set(" \t@?/"):
        raise ConfigError(
            f"--ice-server {text!r} is neither stun:HOST:PORT nor turn:HOST:PORT,USERNAME,CREDENTIAL"
        )
    return {"urls": [url], **dict(zip(("username", "credential"), account, strict=False))}


def parse_http_address(text: str, flag: str = "--http") -> tuple[str, int]:
    """``HOST:PORT``; an IPv6 host stands in brackets. ``ConfigError`` otherwise."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"{flag} {text!r} is not HOST:PORT; give for example 127.0.0.1:8080")
    return host, int(port)
