"""What a server has computed for whom: one receipt for each session or request that came to its end.

Rule of the file: a receipt is this node's own word about its own work, for the person whose machine it is;
it is counted as the work is done and told once, when it is over. Signed ones, which others could check,
would be made of these where accounting is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..ports import Clock
from ..types import BlockRange, PeerId

Kind = Literal["session", "forward", "backward"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """One session, or one request without a session, that has ended however it did.

    ``peer`` is who asked, as its connection proved it. ``blocks`` of ``model`` (its prefix) were computed
    for ``tokens`` positions, each row of a batch counted, and those computed again after a rollback, too.
    ``bytes_in`` and ``bytes_out`` are Hivemind's messages, requests taken and answers sent, without framing
    and encryption. ``started`` and ``ended`` are unix seconds by this machine's clock; ``error`` is why it
    failed, and ``code`` of what kind that is (its class here), else both are empty.
    """

    kind: Kind
    peer: PeerId
    model: str
    blocks: BlockRange
    tokens: int
    bytes_in: int
    bytes_out: int
    started: float
    ended: float
    error: str = ""
    code: str = ""


Receive: TypeAlias = Callable[[Receipt], None]


@dataclass(slots=True)
class Tally:
    """Counts one session or request while it lasts; ``blocks`` are those it turned out to be about."""

    blocks: BlockRange
    tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Receipts:
    """Makes them; ``receive`` hears of each. Without it nobody does."""

    def __init__(self, now: Clock = lambda: 0.0, receive: Receive | None = None) -> None:
        self._now, self._receive = now, receive

    @contextmanager
    def counting(self, kind: Kind, peer: PeerId, model: str, blocks: BlockRange) -> Iterator[Tally]:
        """What is counted meanwhile; where nothing was computed there is nothing to have a receipt for."""
        tally, started, why, code = Tally(blocks), self._now(), "", ""
        try:
            yield tally
        except BaseException as error:
            code = type(error).__name__
            why = str(error) or code
            raise
        finally:
            if self._receive is not None and tally.tokens > 0:
                counted = tally.blocks, tally.tokens, tally.bytes_in, tally.bytes_out
                self._receive(Receipt(kind, peer, model, *counted, started, self._now(), why, code))
