"""What a server node may be told, with the defaults that Petals' own server has.

Rule of the file: one immutable value, checked when made; sizes say their unit in their comment.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, InputError
from ..formats.config import ModelConfig
from ..inference.weight_format import check_format
from ..swarm.announcement import MAX_TTL, MIN_TTL
from ..swarm.blocks import check_prefix
from ..types import BlockRange
from .moving import Restlessness

DEFAULT_RESTLESSNESS = Restlessness()
_AUTO = "auto:"


def parse_blocks(text: str, num_blocks: int) -> tuple[BlockRange, bool]:
    """(blocks, movable) as people ask for them: ``START:END``, ``auto:COUNT``, or nothing for all.

    ``ConfigError`` for a count that the model has not; ``InputError`` for a range that is none.
    """
    if not text.startswith(_AUTO):
        return BlockRange.parse(text or f"0:{num_blocks}"), False
    count = text.removeprefix(_AUTO)
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= num_blocks):
        raise ConfigError(f"{text!r}: the model has {num_blocks} blocks; give auto:1 to auto:{num_blocks}")
    return BlockRange(0, int(count)), True


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A server of ``blocks`` of the model known as ``prefix``; times are seconds.

    ``cache_tokens`` and ``inference_max_length`` of 0 mean Petals' defaults for the model.
    """

    prefix: str
    blocks: BlockRange
    public_name: str | None = None
    repository: str | None = None  # Hugging Face address, by which health monitors list the model
    movable: bool = False  # only the number of ``blocks`` counts: where they are is chosen, and again later
    restlessness: Restlessness = DEFAULT_RESTLESSNESS  # how readily
    using_relay: bool = True  # reached through a circuit relay, as every tab is
    answer_ping: bool = True  # off where a DHT node of our own answers DHTProtocol.rpc_ping
    weights: str = "auto"  # how they are kept in memory, see inference.weight_format
    weight_bytes: int = 0  # that they may take there; 0: as many as they do
    network_bits_per_second: float = 100e6  # Petals' guess where it cannot measure

    cache_tokens: int = 0  # tokens of all sessions together
    inference_max_length: int = 0  # tokens of one session
    max_sessions: int = 64
    max_alloc_timeout: float = 60.0  # the longest a session may wait for cache
    max_run_tokens: int = 512  # batch x tokens in one run: others wait no longer than that takes
    max_request_bytes: int = 64 << 20  # of one streamed request
    step_timeout: float = 300.0
    session_timeout: float = 1800.0
    request_timeout: float = 180.0

    update_period: float = 60.0  # between announcements
    expiration_factor: float = 2.5  # records live this many periods
    announce_timeout: float = 15.0
    retry_delay: float = 5.0  # after an announcement or a rebuild that failed, and between looks at the cache
    cache_change: float = 0.25  # share of the cache by which what we announced may be wrong
    max_rebuilds: int = 5  # in a row, before giving up on a device
    drain_limit: float = 90.0  # the longest that leaving by choice takes
    drain_grace: float = 65.0  # the shortest, unless hurried: Petals' clients read the DHT every 60 s
    fetch_parallel: int = 4  # reads under way at once

    def __post_init__(self) -> None:
        try:
            check_prefix(self.prefix)
        except InputError as error:
            raise ConfigError(str(error)) from error
        if not MIN_TTL <= self.expiration <= MAX_TTL:
            raise ConfigError(
                f"records would live {self.expiration:g} s (update_period x expiration_factor); "
                f"{MIN_TTL:g} to {MAX_TTL:g} are allowed"
            )
        check_format(self.weights)
        for name in ("max_sessions", "max_run_tokens", "max_request_bytes", "fetch_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def expiration(self) -> float:
        """Seconds a record lives after it was announced."""
        return self.update_period * self.expiration_factor

    def check_model(self, model: ModelConfig) -> None:
        """``ConfigError`` if the model has not the blocks to be served."""
        if self.blocks.end > model.num_hidden_layers:
            raise ConfigError(
                f"blocks {self.blocks} were asked for; the model has 0:{model.num_hidden_layers}"
            )

    def max_length(self, model: ModelConfig) -> int:
        """Tokens of one session: as configured, else Petals' default, never above the model's."""
        grouped = model.num_key_value_heads < model.num_attention_heads
        asked = self.inference_max_length or (8192 if grouped else 2048)
        return min(asked, model.max_position_embeddings, self.total_tokens(model))

    def positions(self, model: ModelConfig) -> int:
        """Tokens that anything served can be long: what the tables of rotary embedding must reach."""
        return min(model.max_position_embeddings, self.total_tokens(model))

    def total_tokens(self, model: ModelConfig) -> int:
        """Tokens of cache for all sessions together."""
        grouped = model.num_key_value_heads < model.num_attention_heads
        return self.cache_tokens or (16384 if grouped else 4096)
