"""The OpenAI endpoint: ``/v1/models``, ``/v1/chat/completions``, ``/v1/completions`` and ``/health``.

Follows OpenAI's API reference; what a request means stands in ``openai_requests``, what is answered in
``openai_answers``. Rule of the file: it only joins them to HTTP. A request holds sessions in the swarm
no longer than its connection lives, and nothing is done for a caller who has not been let in.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ..errors import ApiError, KwaaiNetError
from .completion import Completer, Order, Piece, merged
from .openai_access import Access
from .openai_answers import DONE, JsonObject, Style, event, failure, model_object, to_json, usage
from .openai_limits import Limits, RateLimiter
from .openai_metrics import Metrics
from .openai_requests import ChatRequest, TextRequest, read_chat, read_completion

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20  # of a request, unpacked
MAX_READING = 128  # bodies being received at a time
BODY_SECONDS = 20.0  # for a body to arrive
WRITE_SECONDS = 60.0  # for a client to take what it is sent
DEFAULT_MAX_TOKENS = 512  # of a chat whose request names no limit

Handler = Callable[[web.Request, str], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """What an operator decides."""

    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    default_max_tokens: int = DEFAULT_MAX_TOKENS


@dataclass(frozen=True, slots=True)
class _Work:
    """A request that was let in: its orders, one a choice, and how it is answered."""

    caller: str
    completer: Completer
    orders: Sequence[Order]
    prompt_tokens: int
    style: Style


class OpenAiApi:
    """Serves models by the names they have in the swarm."""

    def __init__(self, completers: Sequence[Completer], options: ApiOptions) -> None:
        self._completers = {completer.model.name: completer for completer in completers}
        self._options = options
        self._limiter = RateLimiter(options.limits)
        self._metrics = Metrics()
        self._created = int(time.time())
        self._reading = 0

    def routes(self) -> list[web.RouteDef]:
        """Every route, to stand before those that match anything."""
        return [
            web.get("/health", self._health),
            web.get("/v1/models", self._guarded(self._models)),
            web.get("/v1/models/{name:.+}", self._guarded(self._model)),
            web.post("/v1/chat/completions", self._guarded(self._chat)),
            web.post("/v1/completions", self._guarded(self._completion)),
            web.options("/v1/{path:.*}", self._preflight),
            web.route("*", "/v1/{path:.*}", self._guarded(self._nothing)),
        ]

    def application(self) -> web.Application:
        """These routes alone, and ``/status.json``, for a server of its own."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes([*self.routes(), web.get("/status.json", self._status)])
        return app

    def status(self) -> JsonObject:
        """What has been done, for ``/status.json``."""
        return {"models": list(self._completers), **self._metrics.to_json()}

    # --- letting in -----------------------------------------------------------------------------

    def _guarded(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                response = await handler(request, self._options.access.caller(request))
            except asyncio.CancelledError:
                self._metrics.cancelled += 1
                raise
            except Exception as error:
                if isinstance(error, ConnectionError):  # the client has gone
                    self._metrics.cancelled += 1
                    raise
                response = self._refusal(error)
            self._metrics.answered(response.status)
            if not response.prepared:
                response.headers.update(self._options.access.cors(request))
            return response

        return handle

    def _refusal(self, error: Exception) -> web.Response:
        refused = failure(error)
        if refused.status == 500:
            log.error("a request failed", exc_info=error)
        headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
        return _json(refused.body, refused.status, headers)

    async def _body(self, request: web.Request) -> bytes:
        if request.content_type != "application/json":
            # nor may a page of another origin send anything else without asking first
            raise ApiError("the body must be JSON, with Content-Type: application/json", status=415)
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise ApiError("the body must not be compressed", status=415)
        if self._reading >= MAX_READING:
            raise ApiError("too many requests arrive at once", status=503, code="overloaded", retry_after=1)
        self._reading += 1
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except TimeoutError:
            raise ApiError(f"the body did not arrive within {BODY_SECONDS:g} s", status=408) from None
        except web.HTTPRequestEntityTooLarge:
            raise ApiError(f"the body is larger than {MAX_BODY_BYTES} bytes", status=413) from None
        except web.RequestPayloadError as error:
            raise ApiError(f"the body is broken: {error!s:.200}") from None
        finally:
            self._reading -= 1

    # --- endpoints ------------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _status(self, request: web.Request) -> web.Response:
        return _json({"openai": self.status()})

    async def _preflight(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers=self._options.access.preflight(request))

    async def _nothing(self, request: web.Request, caller: str) -> web.Response:
        text = (
            f"there is no {request.method} {request.path}; see https://platform.openai.com/docs/api-reference"
        )
        raise ApiError(text[:300], status=404, code="unknown_url")

    async def _models(self, request: web.Request, caller: str) -> web.Response:
        return _json({"object": "list", "data": [self._describe(one) for one in self._completers]})

    async def _model(self, request: web.Request, caller: str) -> web.Response:
        name = request.match_info["name"]
        self._completer(name)
        return _json(self._describe(name))

    async def _chat(self, request: web.Request, caller: str) -> web.StreamResponse:
        return await self._answer(request, caller, read_chat(await self._body(request)))

    async def _completion(self, request: web.Request, caller: str) -> web.StreamResponse:
        return await self._answer(request, caller, read_completion(await self._body(request)))

    def _describe(self, name: str) -> JsonObject:
        longest = self._completers[name].model.config.max_position_embeddings
        return model_object(name, self._created, longest)

    def _completer(self, name: str) -> Completer:
        if name not in self._completers:
            text = f"the model {name[:100]!r} is not served here; there is {', '.join(self._completers)}"
            raise ApiError(text, status=404, param="model", code="model_not_found")
        return self._completers[name]

    # --- completing -----------------------------------------------------------------------------

    async def _answer(
        self, request: web.Request, caller: str, asked: ChatRequest | TextRequest
    ) -> web.StreamResponse:
        completer = self._completer(asked.wanted.model)
        self._limiter.admit(caller, asked.choices, time.monotonic())
        self._metrics.in_flight += 1
        try:
            work = await self._prepare(caller, completer, asked)
            self._limiter.spend(caller, work.prompt_tokens, time.monotonic())
            return await (self._stream(request, work) if asked.wanted.stream else self._whole(work))
        finally:
            self._metrics.in_flight -= 1
            self._limiter.release(caller, asked.choices)

    async def _prepare(self, caller: str, completer: Completer, asked: ChatRequest | TextRequest) -> _Work:
        wanted, chat = asked.wanted, isinstance(asked, ChatRequest)
        request_id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        if isinstance(asked, ChatRequest):
            prompts = [await completer.chat_prompt(asked.messages)]
        else:
            prompts = [await _tokens(completer, prompt) for prompt in asked.prompts]
        orders = []
        for prompt in prompts:
            limit = self._limit(completer, prompt, wanted.max_tokens, "messages" if chat else "prompt")
            for choice in range(wanted.n):
                seed = None if wanted.seed is None else wanted.seed + choice
                orders.append(Order(prompt, limit, wanted.sampling, seed, wanted.stop, request_id))
        style = Style(
            chat,
            request_id,
            wanted.model,
            int(time.time()),
            f"fp_{completer.fingerprint}",
            wanted.include_usage,
        )
        return _Work(caller, completer, orders, sum(map(len, prompts)), style)

    def _limit(self, completer: Completer, prompt: Sequence[int], asked: int | None, param: str) -> int:
        """How many tokens a completion may have; ``ApiError`` if prompt or completion are too long."""
        room = completer.room(prompt)
        limit = min(self._options.default_max_tokens, room) if asked is None else asked
        if not 1 <= limit <= room:
            raise ApiError(
                f"this model holds {completer.model.config.max_position_embeddings} tokens; the prompt has "
                f"{len(prompt)} (at least 1 is needed) and {max(limit, 1)} more were asked for",
                param=param,
                code="context_length_exceeded",
            )
        return limit

    def _pieces(self, work: _Work) -> AsyncGenerator[tuple[int, Piece], None]:
        return merged([self._measured(work, order) for order in work.orders])

    async def _measured(self, work: _Work, order: Order) -> AsyncGenerator[Piece, None]:
        """A completion, counted and charged as it goes."""
        started, first, tokens = time.monotonic(), None, 0
        named = {"request_id": order.request_id}
        log.info("request %s begins, %d tokens long", order.request_id, len(order.prompt), extra=named)
        try:
            async with aclosing(work.completer.complete(order)) as pieces:
                async for piece in pieces:
                    if piece.tokens > tokens:
                        first = first or time.monotonic() - started
                        self._limiter.spend(work.caller, piece.tokens - tokens, time.monotonic())
                        tokens = piece.tokens
                    yield piece
        finally:
            seconds = time.monotonic() - started
            self._metrics.completed(len(order.prompt), tokens, first, seconds)
            log.info("request %s ends: %d tokens in %.2f s", order.request_id, tokens, seconds, extra=named)

    async def _whole(self, work: _Work) -> web.Response:
        texts: list[list[str]] = [[] for _ in work.orders]
        tokens, ends = [0] * len(texts), [""] * len(texts)
        async with aclosing(self._pieces(work)) as pieces:
            async for index, piece in pieces:
                texts[index].append(piece.text)
                tokens[index] = piece.tokens
                ends[index] = piece.finish or ""
        choices = [("".join(text), end) for text, end in zip(texts, ends, strict=True)]
        body = work.style.whole(choices, usage(work.prompt_tokens, sum(tokens)))
        return _json(body, headers={"X-Request-Id": work.style.id})

    async def _stream(self, request: web.Request, work: _Work) -> web.StreamResponse:
        """Headers wait for the first piece, so that what fails before it has an honest status."""
        tokens = [0] * len(work.orders)
        async with aclosing(self._pieces(work)) as pieces:
            news: tuple[int, Piece] | None = await anext(pieces)
            headers = {"X-Request-Id": work.style.id, **self._options.access.cors(request)}
            events = _EventStream(request, headers)
            await events.start()
            try:
                for index in range(len(tokens)):
                    await events.send(work.style.opening(index))
                while news is not None:
                    index, piece = news
                    tokens[index] = piece.tokens
                    await events.send(work.style.piece(index, piece.text, piece.finish))
                    news = await anext(pieces, None)
                await events.send(work.style.closing(usage(work.prompt_tokens, sum(tokens))))
            except (KwaaiNetError, TimeoutError) as error:
                log.info("a completion failed on its way: %s", error)
                await events.send([failure(error).body])
        return await events.end()


async def _tokens(completer: Completer, prompt: str | tuple[int, ...]) -> list[int]:
    return await completer.text_prompt(prompt) if isinstance(prompt, str) else list(prompt)


class _EventStream:
    """Server-sent events to one client, who must take them in time."""

    def __init__(self, request: web.Request, headers: dict[str, str]) -> None:
        self._request = request
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # nginx would wait for more
                **headers,
            }
        )

    async def start(self) -> None:
        await self._response.prepare(self._request)

    async def send(self, objects: Sequence[JsonObject]) -> None:
        if objects:
            await self._write(b"".join(event(one) for one in objects))

    async def end(self) -> web.StreamResponse:
        await self._write(DONE)
        await self._response.write_eof()
        return self._response

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client does not take its answer") from None


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=to_json(value), status=status, content_type="application/json", headers=headers)
