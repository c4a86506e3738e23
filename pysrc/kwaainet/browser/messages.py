"""The messages between the page, the network worker and the workers with Python in them, declared once; those
of only one such worker and the page are in ``node_messages`` and ``chat_messages``.

``build/messages.py`` writes ``web/worker/messages.ts`` from this file; the lint checks that it is
current. Rule of the file: only constants, ``TypedDict`` classes and unions of them; a message is a
plain object with a ``type``, and the only bytes in one are its ``body``, which is transferred.

Calls and streams have an ``id``: odd when the node worker began them, even when a peer did. Each
ends with exactly one of ``result``, ``fault``, ``close`` or ``cancel``, whichever side says it first.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

MAX_UNARY_SIZE = 4 * 1024 * 1024
"""Bytes of a unary message with its envelope: what p2pd takes."""

MAX_FRAME_SIZE = 64 * 1024 * 1024
"""Bytes of one message of a stream RPC; p2pd has no limit, a tab's memory has."""

FRAME_HEADER_SIZE = 9
"""Bytes that a stream message costs beside its body, so that empty ones count too."""

STREAM_WINDOW = 1024 * 1024
"""Bytes of framed ``data`` one worker may send before the other has acknowledged any by ``credit``."""

MAX_REPORTED = 64
"""Peers in one report of who is connected."""

State = Literal[
    "starting", "reserving", "loading", "joining", "online", "paused", "draining", "offline", "error"
]
Backend = Literal["wasm", "webgpu"]
ConnectionState = Literal["connecting", "reserved", "lost"]
ConnectionKind = Literal["relay", "circuit", "webrtc"]
FaultName = Literal[
    "RpcError",
    "StreamReset",
    "Unreachable",
    "ProtocolError",
    "LimitExceeded",
    "HandshakeError",
    "CapacityError",
]


class Port:
    """A MessagePort, transferred with its message."""


class Flag:
    """A SharedArrayBuffer of one int32, 0 until it is raised."""


# --- page and network worker ------------------------------------------------------------------


class IceServer(TypedDict):
    """A STUN or TURN server, as RTCPeerConnection takes it."""

    urls: list[str]
    username: NotRequired[str]
    credential: NotRequired[str]


class StartNetwork(TypedDict):
    """Take up the identity (the one this browser keeps, or one of the moment) and be ready; the Python
    worker says when to listen.

    ``direct``: connect to other tabs by WebRTC where that can be done. ``ahead``: seconds that this machine's
    clock is ahead of the relay's, 0 where it is right. ``near_bits``: how many first bits of its place among
    peers the identity should share with the first relay's, so that the peer is found by its id.
    """

    type: Literal["start-network"]
    identity: Literal["kept", "new"]
    relays: list[str]
    node: Port
    rtc: Port
    direct: bool
    ice_servers: list[IceServer]
    ahead: float
    near_bits: int


class Relays(TypedDict):
    """Relays that were heard of meanwhile: slots are held on two, where so many are known."""

    type: Literal["relays"]
    relays: list[str]


class Bye(TypedDict):
    """The page goes away now: error frames first, then the farewell call.

    ``said`` is raised when the frames are on their way; only an isolated page has such a flag.
    """

    type: Literal["bye"]
    reason: str
    said: NotRequired[Flag]


class Identity(TypedDict):
    """Who we are, as soon as it is known."""

    type: Literal["identity"]
    peer_id: str


class Connection(TypedDict):
    """How the relay is reached. ``addresses`` are ours through it; ``reason`` says why it was lost."""

    type: Literal["connection"]
    state: ConnectionState
    relay: str
    addresses: list[str]
    reason: str


class PeerReport(TypedDict):
    """One connected peer: by what it is reached best, and bytes of its RPCs since it connected.

    ``rtt_ms`` is absent until it was measured.
    """

    peer: str
    kind: ConnectionKind
    rtt_ms: NotRequired[float]
    bytes_in: int
    bytes_out: int


class Peers(TypedDict):
    """Who is connected, said again whenever it has changed; the busiest ``MAX_REPORTED`` of them."""

    type: Literal["peers"]
    peers: list[PeerReport]


class Failed(TypedDict):
    """A worker cannot go on; ``message`` is for people."""

    type: Literal["failed"]
    error: str
    message: str


# --- network worker and node worker -----------------------------------------------------------


class Serve(TypedDict):
    """Answer a protocol. Everything served must be said before ``listen``."""

    type: Literal["serve"]
    protocol: str
    kind: Literal["unary", "stream"]


class Listen(TypedDict):
    """Reserve a slot on a relay; answered by ``result`` or ``fault``, lost slots are taken again."""

    type: Literal["listen"]
    id: int


class Farewell(TypedDict):
    """A unary call to make when the page goes away."""

    type: Literal["farewell"]
    peer: str
    protocol: str
    body: bytes


class Leave(TypedDict):
    """Error frames to every served stream, then all connections end; answered by ``result``."""

    type: Literal["leave"]
    id: int
    reason: str


class Call(TypedDict):
    """A unary RPC to ``peer``, or from it."""

    type: Literal["call"]
    id: int
    peer: str
    protocol: str
    body: bytes


class Result(TypedDict):
    """The end of a ``call`` (``body``), a ``listen`` or ``leave``, or the answer to ``open``."""

    type: Literal["result"]
    id: int
    body: NotRequired[bytes]


class Fault(TypedDict):
    """A call or stream failed; the name is a class of ``kwaainet.errors``."""

    type: Literal["fault"]
    id: int
    error: FaultName
    message: str


class Open(TypedDict):
    """A stream RPC to ``peer`` (answered by ``result`` once open), or from it."""

    type: Literal["open"]
    id: int
    peer: str
    protocol: str


class Data(TypedDict):
    """One message of a stream."""

    type: Literal["data"]
    id: int
    body: bytes


class Credit(TypedDict):
    """``bytes`` of the other side's framed data have been taken."""

    type: Literal["credit"]
    id: int
    bytes: int


class End(TypedDict):
    """The caller has no more to send."""

    type: Literal["end"]
    id: int


class Close(TypedDict):
    """The callee is done."""

    type: Literal["close"]
    id: int


class Cancel(TypedDict):
    """The caller gave up, or the stream broke."""

    type: Literal["cancel"]
    id: int
    reason: str


# --- page and the workers with Python in them -------------------------------------------------


class TextFile(TypedDict):
    """A model's text settings: their address, bytes, and what ``fetch`` checks them by."""

    url: str
    size: int
    integrity: str


class Model(TypedDict):
    """The model an origin offers: addresses of its manifest, of the folder of its files and of its page.

    ``text`` is absent where it cannot be talked to.
    """

    prefix: str
    num_blocks: int
    manifest: str
    files: str
    repository: NotRequired[str]
    text: NotRequired[TextFile]


class NetworkGone(TypedDict):
    """The network worker died: every call and stream has failed."""

    type: Literal["network-gone"]
    reason: str


class LoadProgress(TypedDict):
    """How far loading is: ``done`` of ``total`` bytes of all there is to load, 0 while that is unknown.

    ``stage`` is what is waited for: ``python``, then ``weights``, then ``build``. ``cached`` of the bytes
    done were kept here before. ``rate`` is bytes a second from the network, smoothed, 0 when none came;
    ``seconds_left`` is absent while it cannot be told.
    """

    type: Literal["progress"]
    stage: str
    done: int
    total: int
    cached: int
    rate: float
    seconds_left: NotRequired[float]


class Stopped(TypedDict):
    """The worker has ended what it did and left."""

    type: Literal["stopped"]


PageToNetwork = StartNetwork | Relays | Bye
NetworkToPage = Identity | Connection | Peers | Failed
NodeToNetwork = (
    Serve | Listen | Farewell | Leave | Call | Result | Fault | Open | Data | Credit | End | Close | Cancel
)
NetworkToNode = (
    Identity | Connection | Call | Result | Fault | Open | Data | Credit | End | Close | Cancel | NetworkGone
)
