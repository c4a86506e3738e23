"""``ports.Host`` over the network worker, which speaks libp2p and Hivemind's framing.

Rule of the file: only messages cross; every call and stream ends, at the latest when the network
worker is gone. Two waiters never share an id: ours are odd.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from ..errors import (
    UNAVAILABLE,
    CapacityError,
    HandshakeError,
    KwaaiNetError,
    LimitExceeded,
    ProtocolError,
    RpcError,
    StreamReset,
    Unreachable,
)
from ..ports import StreamHandler, UnaryHandler
from ..types import PeerId
from .messages import (
    Call,
    Cancel,
    Close,
    Connection,
    Credit,
    Data,
    End,
    Fault,
    NetworkToNode,
    NodeToNetwork,
    Open,
    Result,
)
from .stream import BrowserStream

log = logging.getLogger(__name__)

LEAVE_TIMEOUT = 5.0  # seconds; after that the network worker is ended anyway
INTERNAL_ERROR = "the server had an internal error"  # a callee's surprise is not the caller's to read

ERRORS: Final[dict[str, type[KwaaiNetError]]] = {
    error.__name__: error
    for error in (
        CapacityError,
        HandshakeError,
        LimitExceeded,
        ProtocolError,
        RpcError,
        StreamReset,
        Unreachable,
    )
}


class NetworkPort(Protocol):
    """The MessagePort to the network worker."""

    def post(self, message: NodeToNetwork) -> None:
        """Send; a ``body`` goes as a buffer of its own."""

    def listen(self, receive: Callable[[NetworkToNode], None]) -> None:
        """Have every message, those that came before included."""


class BrowserHost:
    """A tab's host, made by ``create``."""

    def __init__(self, port: NetworkPort) -> None:
        self._port = port
        self._numbers = 1
        self._unary: dict[str, UnaryHandler] = {}
        self._streaming: dict[str, StreamHandler] = {}
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, BrowserStream] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._slots: dict[str, tuple[str, ...]] = {}  # our addresses by relay, the longest held first
        self._gone: StreamReset | None = None
        self._was_lost = False  # whom announced us, and nobody has announced us since
        self._peer_id: asyncio.Future[PeerId] = asyncio.get_running_loop().create_future()
        self.on_return: Callable[[], None] = lambda: None
        """Called when another relay holds us, or the lost one again: what it announced must be said anew."""
        port.listen(self._receive)

    @classmethod
    async def create(cls, port: NetworkPort) -> BrowserHost:
        """A host once the network worker has said who we are. Raises ``StreamReset`` if it breaks."""
        host = cls(port)
        await host._peer_id
        return host

    @property
    def peer_id(self) -> PeerId:
        """See ``ports.Host``."""
        return self._peer_id.result()

    @property
    def addresses(self) -> Sequence[str]:
        """See ``ports.Host``; empty while every relay is lost."""
        return tuple(address for addresses in self._slots.values() for address in addresses)

    @property
    def relay(self) -> PeerId | None:
        """The one that speaks for us, of those where we hold a slot; ``None`` while there is none."""
        first = next(iter(self._slots), None)
        return None if first is None else PeerId.parse(first.rpartition("/p2p/")[2])

    def handle_unary(self, protocol: str, handler: UnaryHandler) -> None:
        """See ``ports.Host``."""
        self._unary[protocol] = handler
        self._port.post({"type": "serve", "protocol": protocol, "kind": "unary"})

    def handle_stream(self, protocol: str, handler: StreamHandler) -> None:
        """See ``ports.Host``."""
        self._streaming[protocol] = handler
        self._port.post({"type": "serve", "protocol": protocol, "kind": "stream"})

    async def listen(self) -> None:
        """Take a slot on the relay. Raises ``Unreachable``."""
        number = self._next_number()
        await self._ask({"type": "listen", "id": number}, number)

    async def call(self, peer: PeerId, protocol: str, request: bytes, *, timeout: float) -> bytes:
        """See ``ports.Host``."""
        number = self._next_number()
        message: Call = {
            "type": "call",
            "id": number,
            "peer": str(peer),
            "protocol": protocol,
            "body": request,
        }
        async with asyncio.timeout(timeout):
            return await self._ask(message, number)

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout: float) -> BrowserStream:
        """See ``ports.Host``."""
        number = self._next_number()
        stream = BrowserStream(number, peer, self._post_of_caller, is_caller=True)
        self._streams[number] = stream
        try:
            async with asyncio.timeout(timeout):
                await self._ask(
                    {"type": "open", "id": number, "peer": str(peer), "protocol": protocol}, number
                )
        except BaseException:
            self._streams.pop(number, None)
            raise
        return stream

    def set_farewell(self, peer: PeerId, protocol: str, request: bytes) -> None:
        """The unary call that the network worker makes when the page goes away without warning."""
        self._port.post({"type": "farewell", "peer": str(peer), "protocol": protocol, "body": request})

    async def close(self) -> None:
        """See ``ports.Host``."""
        if self._gone is not None:
            return
        number = self._next_number()
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await self._ask(
                    {"type": "leave", "id": number, "reason": f"{UNAVAILABLE}it is leaving the swarm"}, number
                )
        except (KwaaiNetError, TimeoutError) as error:
            log.warning("the network worker did not leave in good order: %s", error)
        self._fail_all(StreamReset("this host was closed"))

    # --- what arrives -----------------------------------------------------------------------------

    def _receive(self, message: NetworkToNode) -> None:
        match message["type"]:
            case "call":
                self._serve(message["id"], self._answer_call(message))
            case "open":
                self._take_stream(message)
            case "connection":
                self._note_connection(message)
            case "identity":
                self._peer_id.set_result(PeerId.parse(message["peer_id"]))
            case "network-gone":
                self._fail_all(StreamReset(f"the network worker is gone: {message['reason']}"))
            case _:
                self._route(message)

    def _route(self, message: Result | Fault | Data | Credit | End | Close | Cancel) -> None:
        """A message about a call or stream that is under way; late ones are dropped."""
        number = message["id"]
        answer = self._answers.get(number)
        stream = self._streams.get(number)
        if answer is not None and message["type"] in ("result", "fault"):
            _settle(answer, message)
        elif stream is not None:
            _feed(stream, message)
            if message["type"] in ("close", "fault", "cancel"):
                self._streams.pop(number, None)
        elif message["type"] == "cancel" and number in self._serving:
            self._serving[number].cancel()

    def _note_connection(self, connection: Connection) -> None:
        before = next(iter(self._slots), None)
        if connection["state"] == "reserved":
            self._slots[connection["relay"]] = tuple(connection["addresses"])
        elif connection["state"] == "lost":
            self._slots.pop(connection["relay"], None)
            self._was_lost |= before in (connection["relay"], None)
            log.warning("the relay %s is lost: %s", connection["relay"], connection["reason"])
        if self._was_lost and self._slots:
            self._was_lost = False
            self.on_return()

    def _serve(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._serving[number] = task
        task.add_done_callback(lambda _: self._serving.pop(number, None))

    async def _answer_call(self, call: Call) -> None:
        number, protocol = call["id"], call["protocol"]
        try:
            reply = await self._unary[protocol](PeerId.parse(call["peer"]), call["body"])
        except KwaaiNetError as error:
            self._fault(number, repr(error))
        except Exception:
            log.exception("the handler of %s failed", protocol)
            self._fault(number, INTERNAL_ERROR)
        else:
            self._port.post({"type": "result", "id": number, "body": reply})

    def _take_stream(self, opened: Open) -> None:
        """At once: what comes with the next message must find the stream there."""
        number = opened["id"]
        stream = BrowserStream(number, PeerId.parse(opened["peer"]), self._port.post, is_caller=False)
        self._streams[number] = stream
        self._serve(number, self._answer_stream(number, opened["protocol"], stream))

    async def _answer_stream(self, number: int, protocol: str, stream: BrowserStream) -> None:
        try:
            await self._streaming[protocol](stream)
        except KwaaiNetError as error:
            stream.refuse(str(error) or repr(error))
        except Exception:
            log.exception("the handler of %s failed", protocol)
            stream.refuse(INTERNAL_ERROR)
        finally:
            stream.close_now()
            self._streams.pop(number, None)

    def _fault(self, number: int, text: str) -> None:
        self._port.post({"type": "fault", "id": number, "error": "RpcError", "message": text})

    # --- what we ask ------------------------------------------------------------------------------

    async def _ask(self, message: NodeToNetwork, number: int) -> bytes:
        """Post a message that is answered by ``result`` or ``fault``; cancelled if nobody waits."""
        if self._gone is not None:
            raise self._gone
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._port.post(message)
            return await answer
        except asyncio.CancelledError:
            self._port.post({"type": "cancel", "id": number, "reason": "the caller gave up"})
            raise
        finally:
            del self._answers[number]

    def _post_of_caller(self, message: NodeToNetwork) -> None:
        self._port.post(message)
        if message["type"] == "cancel":
            self._streams.pop(message["id"], None)

    def _next_number(self) -> int:
        self._numbers += 2
        return self._numbers

    def _fail_all(self, error: StreamReset) -> None:
        self._gone = self._gone or error
        self._slots = {}
        if not self._peer_id.done():
            self._peer_id.set_exception(error)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
        for stream in list(self._streams.values()):
            stream.on_failure(error)
        for task in list(self._serving.values()):
            if task is not asyncio.current_task():
                task.cancel()


def _settle(answer: asyncio.Future[bytes], message: Result | Fault) -> None:
    if answer.done():
        return
    if message["type"] == "result":
        answer.set_result(message.get("body", b""))
    else:
        answer.set_exception(_error(message))


def _feed(stream: BrowserStream, message: Result | Fault | Data | Credit | End | Close | Cancel) -> None:
    match message["type"]:
        case "data":
            stream.on_data(message["body"])
        case "credit":
            stream.on_credit(message["bytes"])
        case "end":
            stream.on_end()
        case "close":
            stream.on_close()
        case "cancel":
            stream.on_failure(StreamReset(message["reason"]))
        case "fault":
            stream.on_failure(_error(message))


def _error(fault: Fault) -> KwaaiNetError:
    return ERRORS.get(fault["error"], ProtocolError)(fault["message"])
