"""What the RPC handler needs of whoever runs blocks: an engine's span here, other servers behind a gateway.

Follows ``span.ServedSpan``. Rule of the file: declarations only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ..errors import KwaaiNetError
from ..ports import Floats
from ..types import BlockRange, PeerId
from .admission import Admission


class RunnerCache(Protocol):
    """One session's attention cache, wherever it is."""

    on_lost: Callable[[KwaaiNetError], None]

    async def run(self, hidden: Floats, is_wanted: Callable[[], bool] = ...) -> Floats:
        """Append hidden's positions [batch, n, hidden], n >= 1; ``is_wanted`` is asked between parts."""

    async def truncate(self, length: int) -> None:
        """Roll back to the first ``length`` positions."""

    async def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was."""


class Runner(Protocol):
    """Runs hidden states [batch, n, hidden] through blocks, counted from the first one served."""

    admission: Admission

    def open_cache(
        self,
        batch: int,
        max_length: int,
        timeout: float,
        blocks: BlockRange | None = None,
        peer: PeerId | None = None,
        request_id: str = "",
    ) -> AbstractAsyncContextManager[RunnerCache]:
        """A cache for ``batch`` rows of ``max_length`` positions, waited for up to ``timeout`` s.

        ``peer`` is for whom, where room and turns are shared out by peer; ``request_id`` for what, in
        the logs of others who take part.
        """

    async def forward(
        self, hidden: Floats, timeout: float, blocks: BlockRange | None = None, peer: PeerId | None = None
    ) -> Floats:
        """The same shape, each row on its own from position 0."""


class Training(Protocol):
    """Forward with prompts, and backward, through blocks counted from the model's first; see
    ``gradients.SpanGradients``."""

    async def forward(self, hidden: Floats, blocks: BlockRange, prompts: Floats | None) -> Floats:
        """The output, each block's prompt added to its first positions."""

    async def backward(
        self, hidden: Floats, grad: Floats, blocks: BlockRange, prompts: Floats | None
    ) -> tuple[Floats, Floats | None]:
        """(the gradient of ``hidden``, that of the prompts if there are any), given that of the output."""
