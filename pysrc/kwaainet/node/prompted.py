"""A session that began with deep prompts (Petals' deep_ptune): no cache, its whole history each time.

Follows Petals' ``server/backend.py`` (inference_step adds each block's prompt to what the block gets).
Rule of the file: right before fast. A graph with keys and values cached has no place for prompts, and
one that had would cost everybody's every step; so the few sessions that use them compute from the
start again at each step, as training does and within its bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import KwaaiNetError
from ..ports import Floats
from ..types import BlockRange
from .runner import Training


class PromptedCache:
    """A ``runner.RunnerCache`` over ``blocks`` of the model; prompts [blocks, batch or 1, p, hidden]."""

    def __init__(self, training: Training, blocks: BlockRange, prompts: Floats) -> None:
        self._training, self._blocks = training, blocks
        self._prompts: Floats | None = prompts
        self._history: Floats | None = None
        self.on_lost: Callable[[KwaaiNetError], None] = lambda error: None

    async def run(self, hidden: Floats, is_wanted: Callable[[], bool] = lambda: True) -> Floats:
        """Append hidden's positions. Raises ``CapacityError`` for a session too long, ``EngineError``."""
        history = hidden if self._history is None else np.concatenate([self._history, hidden], axis=1)
        output = await self._training.forward(history, self._blocks, self._prompts)
        self._history = history
        return output[:, -hidden.shape[1] :]

    async def truncate(self, length: int) -> None:
        """Roll back; positions that come anew have no prompts, unless they come with some."""
        if self._history is not None:
            self._history = self._history[:, :length]
        if self._prompts is not None:
            self._prompts = self._prompts[:, :, :length] if length else None

    async def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        if self._history is not None:
            self._history = self._history[list(rows)]
        if self._prompts is not None and self._prompts.shape[1] > 1:
            self._prompts = self._prompts[:, list(rows)]
