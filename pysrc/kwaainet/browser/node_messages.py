"""The messages between the page and the node worker, declared once, as in ``messages``.

Rule of the file: as there.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from .messages import Backend, Failed, LoadProgress, Model, NetworkGone, Port, State, Stopped

PauseReason = Literal["asked", "hours", "battery", "metered", "hidden", "memory"]


class NodeConfig(TypedDict):
    """What the node is to do. ``blocks`` is START:END, auto:COUNT to have them chosen, or empty for all.

    ``weights`` is how they are kept in memory, in at most ``memory`` bytes where that can be chosen.
    ``cache`` is how many bytes of fetched weights this browser may keep; absent: a share of its quota.
    ``ahead``: seconds that this machine's clock is ahead of the relay's, 0 where it is right.
    """

    origin: str
    relays: list[str]
    model: Model
    blocks: str
    backend: Backend
    threads: int
    public_name: str
    weights: str
    memory: int
    ahead: float
    cache: NotRequired[int]


class StartNode(TypedDict):
    """Boot Pyodide and the node."""

    type: Literal["start-node"]
    config: NodeConfig
    network: Port


class StopNode(TypedDict):
    """Leave the swarm, serving on for at most ``drain`` seconds; answered by ``stopped``.

    Said again meanwhile, the shorter time counts.
    """

    type: Literal["stop-node"]
    drain: float


class SetLimits(TypedDict):
    """What the person at this machine allows its node, and how things are with the machine;
    all of it each time.

    ``paused``: Pause was pressed. ``duty`` is the share of the time the engine may compute, 0 to 1;
    ``memory`` what weights and caches may take, in bytes, 0 without a limit; ``hours`` pairs of minutes
    since local midnight, from and to, none for the whole day; ``utc_offset`` minutes local time is ahead.
    """

    type: Literal["limits"]
    paused: bool
    duty: float
    memory: int
    hours: list[list[int]]
    pause_on_battery: bool
    pause_on_metered: bool
    pause_when_hidden: bool
    on_battery: bool
    metered: bool
    hidden: bool
    utc_offset: int


class StateChange(TypedDict):
    """Where the node stands; ``reasons`` are why it is paused, while it is."""

    type: Literal["state"]
    state: State
    blocks: list[int]
    backend: str
    weights: str
    message: str
    reasons: NotRequired[list[PauseReason]]


class Storage(TypedDict):
    """Whether what was fetched is there at the next start, told once it is known and when that changes.

    ``needed`` bytes are this node's weights, ``room`` those the browser gives for them; ``message`` is for
    people: why they are not kept and what to do, empty where they are.
    """

    type: Literal["storage"]
    kept: bool
    needed: int
    room: int
    message: str


class Serving(TypedDict):
    """What an online node does, told when it changes; ``leaving_in`` is seconds, 0 unless it drains.

    ``requests_done`` are steps and prompts, ``busy`` is how many seconds its engine has computed, both
    since it started; ``cache_left`` are tokens that sessions may still take.
    """

    type: Literal["serving"]
    sessions: int
    tokens_done: int
    requests_done: int
    busy: float
    cache_left: int
    leaving_in: float


class Receipt(TypedDict):
    """A session or request that this node served has ended; see ``kwaainet.node.receipts``."""

    type: Literal["receipt"]
    kind: Literal["session", "forward", "backward"]
    peer: str
    model: str
    blocks: list[int]
    tokens: int
    bytes_in: int
    bytes_out: int
    started: float
    ended: float
    error: str
    code: str


class Threads(TypedDict):
    """How many threads compute on the processor; ``message`` says why not as many as were asked for."""

    type: Literal["threads"]
    count: int
    message: str


PageToNode = StartNode | StopNode | SetLimits | NetworkGone
NodeToPage = StateChange | LoadProgress | Storage | Threads | Serving | Receipt | Failed | Stopped
