"""What several servers serve together, and how a gateway announces it as one.

Follows Petals' ``ServerInfo`` in what the numbers mean. Rule of the file: records in, values out; a
gateway's own record is told from a server's by its version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..types import BlockRange, PeerId, ServerState
from .server_info import ServerInfo

GATEWAY_MARK = "+gateway"  # the end of the version; a local version label, as PEP 440 has it

Records = Sequence[Mapping[PeerId, ServerInfo]]  # of blocks 0, 1, …


def is_gateway(info: ServerInfo) -> bool:
    """Whether whoever announces this only forwards: a gateway must not forward to it."""
    return (info.version or "").endswith(GATEWAY_MARK)


def holders(records: Records) -> list[dict[PeerId, ServerInfo]]:
    """By block, the servers that are ONLINE and hold it themselves."""
    return [
        {
            peer: info
            for peer, info in servers.items()
            if info.state == ServerState.ONLINE and not is_gateway(info)
        }
        for servers in records
    ]


def covered(held: Records) -> BlockRange | None:
    """The longest run of blocks that each have a holder, the first of equal ones."""
    best: BlockRange | None = None
    start: int | None = None
    for block, servers in enumerate([*held, {}]):
        if servers:
            start = block if start is None else start
        elif start is not None:
            if best is None or block - start > len(best):
                best = BlockRange(start, block)
            start = None
    return best


def as_one_server(held: Records, blocks: BlockRange, version: str) -> ServerInfo:
    """A gateway's announcement for ``blocks``, each of which has a holder.

    Rates are those of a request that goes through the fastest holder of every block.
    """
    span = held[blocks.start : blocks.end]
    return ServerInfo(
        ServerState.ONLINE,
        throughput=min(max(info.throughput for info in servers.values()) for servers in span),
        start_block=blocks.start,
        end_block=blocks.end,
        version=version + GATEWAY_MARK,
        forward_rps=_mean_rate(span, lambda info: info.forward_rps),
        inference_rps=_mean_rate(span, lambda info: info.inference_rps),
        torch_dtype="float32",
        quant_type="none",
        using_relay=False,
    )


def _mean_rate(span: Records, rate_of: Callable[[ServerInfo], float | None]) -> float | None:
    """Tokens a second through one block, so that the times of all blocks add up; ``None`` if unknown."""
    seconds = 0.0
    for servers in span:
        rate = max((rate_of(info) or 0.0 for info in servers.values()), default=0.0)
        if not rate:
            return None
        seconds += 1.0 / rate
    return len(span) / seconds
