"""A model on a node: its files and engine, the surroundings that all models share, and how it is doing.

Rule of the file: values only, which are replaced and never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..formats.manifest import ModelManifest
from ..ports import BlobStore, Clock, Engine, Gradients, RangeSource
from ..types import BlockRange, ServerState
from .announce import Announcer
from .bandwidth import Bandwidth
from .config import NodeConfig
from .directory import ReadServers
from .limits import Reason
from .model import LoadStats
from .models import ModelHosts
from .rates import Rates
from .receipts import Receipts


@dataclass(frozen=True, slots=True)
class HostedModel:
    """A model to serve: what of it, where its files are, and what computes it."""

    config: NodeConfig
    manifest: ModelManifest
    source: RangeSource
    engine: Engine
    gradients: Gradients | None = None  # without it the node refuses to train
    lends: RangeSource | None = None  # the model's files where they lie on this machine, to lend from


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all models of a node share. Without ``read_servers`` nobody is pinged and nothing moves;
    without ``bandwidth`` what the network carries is a guess."""

    hosts: ModelHosts
    store: BlobStore
    announcer: Announcer
    now: Clock
    read_servers: ReadServers | None
    chance: Callable[[], float]  # uniform in 0 to 1
    bandwidth: Bandwidth | None = None
    receipts: Receipts | None = None


@dataclass(frozen=True, slots=True)
class SpanStatus:
    """How one model's blocks are doing; ``error`` is the last thing that went wrong."""

    prefix: str
    state: ServerState
    blocks: BlockRange
    backend: str
    weights: str = ""  # how they are kept in memory, and why
    sessions: int = 0
    tokens_done: int = 0
    requests_done: int = 0  # steps and prompts
    busy: float = 0.0  # seconds that the engine has computed
    paused: tuple[Reason, ...] = ()  # why, while it is
    cache_tokens_left: int = 0
    moving_in: float | None = None  # while it drains before a move: the seconds that may still take
    moves: int = 0
    rebuilds: int = 0
    rates: Rates | None = None
    loaded: LoadStats | None = None
    error: str | None = None
