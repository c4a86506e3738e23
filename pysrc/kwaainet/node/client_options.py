"""What a client may be told about how to use the swarm. Rule of the file: numbers with reasons, no code
that acts on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from ..types import BlockRange, PeerId


def _anybody(peer: PeerId) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """``routing``: Petals' ``min_latency`` (one user's speed) or ``max_throughput`` (spread the load).

    ``blocks``: the part of the model to run, all of it unless said. ``usable``: servers that may be hops.
    ``push``: let servers pass a step on to the next hop themselves; ``auto``: where that is sooner.
    ``spare``: keep a second server ready for each hop. Times in seconds.
    """

    routing: Literal["min_latency", "max_throughput"] = "min_latency"
    blocks: BlockRange | None = None
    usable: Callable[[PeerId], bool] = _anybody
    push: Literal["auto", "on", "off"] = "auto"
    spare: bool = False
    step_timeout: float = 300.0  # one step with all its fail-overs: Petals' step timeout
    patience: float = 10.0  # to wait for blocks to be held again by somebody, within a step
    refresh_period: float = 30.0  # between looks at the swarm while a session is open
    replay_tokens: int = 128  # positions of one message of a replay: what our servers run in one piece
    history_bytes: int = 512 << 20  # of inputs kept for replays, a session

    def __post_init__(self) -> None:
        if self.routing not in ("min_latency", "max_throughput"):
            raise ConfigError(f"routing is {self.routing!r}; min_latency or max_throughput is expected")
        if self.push not in ("auto", "on", "off"):
            raise ConfigError(f"push is {self.push!r}; auto, on or off is expected")
        for name in ("step_timeout", "refresh_period", "replay_tokens", "history_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; a positive number is expected")
