"""A well-behaved client that keeps one inference session busy while others misbehave.

It runs in a thread of its own, through a circuit of the relay, round after round of the same steps:
the server rolls its session back at the start of each. Every reply must be, to the byte, what it was
in the first round, which is held against ``rpc_forward``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence

import numpy as np
from benchmarks.processes import cpu_seconds

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.ports import Stream
from kwaainet.types import PeerId
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

SERVICE = "TransformerConnectionHandler"
STRUCTURE = ((b"__T0", b"__T1", b"__T2"), {})
CHUNKS = (12, 1, 1, 1, 1, 1, 1, 1)  # tokens of each step of a round
PATIENCE = 180.0  # seconds until a round that does not end is a failure; one takes 0.1
NO_PROMPTS = serialize(np.zeros(0, np.float32))
NO_ROWS = serialize(np.zeros(0, np.int64))


def positions(count: int, hidden_size: int, seed: int = 0) -> np.ndarray:
    """Hidden states [1, count, hidden_size]."""
    return np.random.default_rng(seed).standard_normal((1, count, hidden_size), np.float32)


class Bystander:
    """``rounds`` counts what went well, ``failure`` is what did not.

    ``slowest``: the most processor seconds that ``processes`` spent on all they do while a step was waited
    for; unlike time on a clock, that is the same on a loaded machine.
    """

    def __init__(self, relay: str, server: str, uid: str, hidden_size: int, processes: Sequence[int]) -> None:
        self.rounds = 0
        self.slowest = 0.0
        self._processes = processes
        self.failure: BaseException | None = None
        self._relay, self._server, self._uid = relay, PeerId.parse(server), uid
        self._hidden = positions(sum(CHUNKS), hidden_size)
        self._expected: list[bytes] = []
        self._news = threading.Condition()
        self._leaving = False
        self._thread = threading.Thread(target=self._run, name="bystander", daemon=True)
        self._thread.start()

    def goes_on(self, rounds: int = 2) -> None:
        """Await so many more whole rounds; raises what went wrong."""
        with self._news:
            goal = self.rounds + rounds + 1  # the one under way began before now
            self._news.wait_for(lambda: self.failure is not None or self.rounds >= goal, PATIENCE)
            if self.failure is not None:
                raise AssertionError("the session beside it broke") from self.failure
            assert self.rounds >= goal, f"the session beside it stood still for {PATIENCE:g} s"

    def leave(self) -> None:
        """End the session."""
        self._leaving = True
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            with self._news:
                self.failure = error
                self._news.notify_all()

    async def _live(self) -> None:
        host = await NativeHost.create(PrivateKey(os.urandom(32)))
        await host.connect(self._relay)
        stream = await host.open_stream(self._server, f"{SERVICE}.rpc_inference", timeout=PATIENCE)
        assert host.network.link(self._server).address.is_circuit  # or the relay would not matter
        while not self._leaving:
            replies = await self._round(stream)
            if not self._expected:
                await self._check(host, replies)
                self._expected = replies
            assert replies == self._expected, "a reply differs from the first round's"
            with self._news:
                self.rounds += 1
                self._news.notify_all()
        await stream.close()
        await host.close()

    async def _round(self, stream: Stream) -> list[bytes]:
        replies, start = [], 0
        for tokens in CHUNKS:
            began = self._spent()
            await stream.send(self._request(start, start + tokens))
            reply = await stream.receive()
            assert reply is not None, "the server ended the session"
            replies.append(reply)
            self.slowest = max(self.slowest, self._spent() - began)
            start += tokens
            await asyncio.sleep(0.005)  # a pace that leaves the processors to the others
        return replies

    def _spent(self) -> float:
        return sum(cpu_seconds(process_id) for process_id in self._processes)

    def _request(self, start: int, end: int) -> bytes:
        metadata = {"args_structure": STRUCTURE, "start_from_position": start}
        if not self.rounds and start == 0:
            metadata |= {"session_id": "bystander", "max_length": sum(CHUNKS), "points": 0}
        tensors = (serialize(self._hidden[:, start:end]), NO_PROMPTS, NO_ROWS)
        return ExpertRequest(self._uid, tensors, msgpack.dumps(metadata)).encode()

    async def _check(self, host: NativeHost, replies: list[bytes]) -> None:
        """One forward over all positions gives what the steps gave."""
        request = ExpertRequest(self._uid, (serialize(self._hidden),)).encode()
        whole = await host.call(self._server, f"{SERVICE}.rpc_forward", request, timeout=PATIENCE)
        expected = deserialize(ExpertResponse.decode(whole).tensors[0])
        stepped = [deserialize(ExpertResponse.decode(reply).tensors[0]) for reply in replies]
        np.testing.assert_allclose(np.concatenate(stepped, axis=1), expected, atol=1e-4)
