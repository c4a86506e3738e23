"""Servers to be killed: a few hold each part of a model, and whoever is lost is replaced in the background.

Rule of the file: one server starts at a time, and none is killed that is the last but ``LEFT`` of its part.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from interop.running import Running

HELD = 3  # servers of each part, the one that starts included
LEFT = 2  # servers that must be there for one to be killed

Server = tuple[Running, dict[str, Any]]  # and its online event
Start = Callable[[str, str], AbstractContextManager[Server]]  # (blocks, name) -> a server


class Holders:
    """Starts ``HELD`` servers of each of ``spans`` and keeps as many. A context manager."""

    def __init__(self, start: Start, spans: Sequence[str]) -> None:
        self._start, self._spans = start, spans
        self._names = (f"server-{number}" for number in itertools.count())
        self._starter = ThreadPoolExecutor(1)
        self._stack = ExitStack()
        self._online: dict[str, tuple[Running, str]] = {}  # by peer id; the process and its blocks
        self._starting: dict[Future[str], str] = {}  # -> a peer id; its blocks
        for blocks in tuple(spans) * HELD:
            self._add(blocks)

    def __enter__(self) -> Holders:
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            self._starter.shutdown(cancel_futures=True)
        finally:  # an interrupt ends no wait for the one that is starting: it would stay behind
            self._starter.shutdown()
            self._stack.close()

    def peers(self, blocks: str) -> set[str]:
        """Who serves this part. Raises what made a start fail."""
        for future in [one for one in self._starting if one.done()]:
            del self._starting[future]
            future.result()
        return {peer for peer, (_, held) in list(self._online.items()) if held == blocks}

    @property
    def enough(self) -> bool:
        """Whether one of any part may be killed. Raises what made a start fail, which takes only so long."""
        return all(len(self.peers(blocks)) >= LEFT for blocks in self._spans)

    def blocks_of(self, peer: str) -> str:
        """What a server serves."""
        return self._online[peer][1]

    def kill(self, peer: str) -> str:
        """End a server by SIGKILL and start another in its place; returns its blocks."""
        running, blocks = self._online.pop(peer)
        process_id = running.process.pid
        children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
        for one in (*map(int, children), process_id):  # a tab's browser leads a process group of its own
            os.killpg(one, signal.SIGKILL)
        self._add(blocks)
        return blocks

    def _add(self, blocks: str) -> None:
        self._starting[self._starter.submit(self._begin, blocks)] = blocks

    def _begin(self, blocks: str) -> str:
        running, online = self._stack.enter_context(self._start(blocks, next(self._names)))
        peer: str = online["peer_id"]
        self._online[peer] = running, blocks
        return peer
