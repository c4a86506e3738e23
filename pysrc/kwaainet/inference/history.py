"""What went into one hop of a session, kept so that another server can be given the same.

Rule of the file: the hidden states of every position so far, in order, rows as the caches have them
now; never more bytes than the session's budget allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..errors import CapacityError
from ..ports import Floats
from .chain import Step

_FIRST_POSITIONS = 64  # room made at first; it doubles


class Budget:
    """Bytes that the histories of one session may take together, or those of all sessions: a session's
    own budget lies ``within`` that one."""

    def __init__(self, limit: int, within: Budget | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._within = within

    def take(self, size: int) -> None:
        """``CapacityError`` if there is no room for so many more."""
        if self.used + size > self.limit:
            raise CapacityError(
                f"the input history would take {self.used + size} bytes, {self.limit} are allowed; "
                "use a smaller batch or length, or raise history_bytes"
            )
        if self._within is not None:
            self._within.take(size)
        self.used += size

    def give_back(self, size: int) -> None:
        """So many are free again."""
        self.used -= size
        if self._within is not None:
            self._within.give_back(size)


class History:
    """Inputs of the blocks that begin at one boundary: float32 [batch, length, hidden]."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._array: Floats | None = None
        self.length = 0
        self._recorded: str | None = None  # the last step whose input is the end of this
        self._ordered: str | None = None  # the last step whose rows these are

    def record(self, step: Step, hidden: Floats) -> None:
        """hidden [batch, n, hidden] goes in with ``step``; a step tried again is recorded once.

        ``CapacityError`` beyond the budget.
        """
        if self._recorded == step.step_id:
            return
        self.truncate(step.position)
        if step.rows is not None and self._ordered != step.step_id:
            self.reorder(step.rows)
        self._ordered = step.step_id
        self.append(hidden)
        self._recorded = step.step_id

    def start_again(self, step: Step) -> None:
        """Empty, to be filled with what is replayed for ``step``, whose rows are in order there."""
        self.length, self._ordered, self._recorded = 0, step.step_id, None

    def append(self, hidden: Floats) -> None:
        """hidden [batch, n, hidden] after what is there. ``CapacityError`` beyond the budget."""
        end = self.length + hidden.shape[1]
        array = self._room(hidden, end)
        array[:, self.length : end] = hidden
        self.length = end

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` positions."""
        self.length = min(self.length, length)

    def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was, as in the caches (hypo_ids)."""
        if self._array is not None:
            self._array[:, : self.length] = self._array[list(rows), : self.length]

    def pieces(self, start: int, end: int, size: int) -> Iterator[Floats]:
        """Positions ``start`` to ``end`` in order, up to ``size`` at a time, as copies."""
        for first in range(start, end, size):
            assert self._array is not None, "nothing was recorded"
            yield self._array[:, first : min(first + size, end)].copy()

    def release(self) -> None:
        """Forget everything and give the bytes back."""
        if self._array is not None:
            self._budget.give_back(self._array.nbytes)
        self._array, self.length = None, 0

    def _room(self, hidden: Floats, end: int) -> Floats:
        batch, _, width = hidden.shape
        old = self._array
        if old is not None and end <= old.shape[1]:
            return old
        wanted = max(end, 2 * old.shape[1] if old is not None else _FIRST_POSITIONS)
        size = 4 * batch * wanted * width
        self._budget.take(size - (old.nbytes if old is not None else 0))
        grown = np.empty((batch, wanted, width), dtype=np.float32)
        if old is not None:
            grown[:, : self.length] = old[:, : self.length]
        self._array = grown
        return grown


class Histories:
    """One session's histories, by the block that each goes into; together within ``budget``."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._histories: dict[int, History] = {}

    def at(self, block: int) -> History:
        """What goes into this block; empty if nothing did."""
        return self._histories.setdefault(block, History(self._budget))

    def keep_only(self, blocks: Collection[int]) -> None:
        """Forget what goes into other blocks."""
        for block in self._histories.keys() - set(blocks):
            self._histories.pop(block).release()
