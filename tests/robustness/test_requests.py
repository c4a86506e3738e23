"""An authenticated peer that calls the server's RPCs wrongly: each call fails alone, in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from robustness.bystander import NO_PROMPTS, NO_ROWS, SERVICE, STRUCTURE, positions
from robustness.caller import SECONDS, Caller
from robustness.small_model import CONFIG, PREFIX
from robustness.swarm import MEGA, UID, Swarm

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import HandshakeError, RpcError, StreamReset
from kwaainet.libp2p.admission import Limits
from kwaainet.native.stream import RawStream
from kwaainet.ports import Stream
from kwaainet.wire import msgpack, varint
from kwaainet.wire.messages import (
    CallUnaryRequest,
    ExpertRequest,
    ExpertResponse,
    ExpertUID,
    Tensor,
    UnaryRequest,
)

HIDDEN = serialize(positions(4, CONFIG.hidden_size, seed=9))
PROMPTS = serialize(np.zeros((2, 1, 2, 64), np.float32))  # for two blocks of three
STEP = serialize(positions(1, CONFIG.hidden_size, seed=8))
FIRST = {"session_id": "evil", "max_length": 32, "points": 0}


class RpcCaller(Caller):
    """Calls the server's RPCs as it likes."""

    async def call(self, method: str, request: bytes) -> bytes:
        return await self.host.call(self.server, f"{SERVICE}.{method}", request, timeout=SECONDS)

    async def refused(self, method: str, request: bytes) -> str:
        """The words of the error that a unary call ends in."""
        with pytest.raises(RpcError) as error:
            await self.call(method, request)
        return str(error.value)

    async def raw(self, method: str) -> RawStream:
        return await self.host.open_raw(self.server, f"{SERVICE}.{method}", timeout=SECONDS)

    @asynccontextmanager
    async def stream(self, method: str) -> AsyncIterator[Stream]:
        stream = await self.host.open_stream(self.server, f"{SERVICE}.{method}", timeout=SECONDS)
        yield stream
        await stream.close()

    async def refused_in_stream(self, method: str, *messages: bytes, end: bool = False) -> str:
        """The words of the error frame that answers the last message; all before it are answered."""
        async with self.stream(method) as stream:
            for message in messages[:-1]:
                await stream.send(message)
                if not end:
                    assert await stream.receive() is not None
            await stream.send(messages[-1])
            if end:
                await stream.end()
            with pytest.raises(RpcError) as error:
                await stream.receive()
            return str(error.value)


@pytest.fixture(scope="module")
def caller(swarm: Swarm) -> Iterator[RpcCaller]:
    """One for the module: that it is still served shows that it was not locked out as a whole."""
    caller = RpcCaller(swarm)
    yield caller
    caller.close()


def request(hidden: Tensor = HIDDEN, *more: Tensor, uid: str = UID, **metadata: Any) -> bytes:
    """A request with the usual arguments, unless told otherwise."""
    tensors = (hidden, *(more or (NO_PROMPTS, NO_ROWS)))
    options = {"args_structure": STRUCTURE, **FIRST, **metadata}
    return ExpertRequest(uid, tensors, msgpack.dumps(options)).encode()


def raw_metadata(data: bytes) -> bytes:
    return ExpertRequest(UID, (HIDDEN,), data).encode()


def rows(*values: int, dtype: Any = np.int64) -> Tensor:
    return serialize(np.array(values, dtype))


ANY_REQUEST = {
    "garbage": (b"\xff" * 40, "varint|field|wire type|protobuf"),
    "truncated message": (request()[:-100], "5 are left"),
    "no block": (request(uid=""), "names no block"),
    "wrong prefix": (request(uid="other-hf.0 other-hf.1 other-hf.2"), "'other-hf.0' is not served here"),
    "unknown block": (request(uid=f"{PREFIX}.7"), f"'{PREFIX}.7' is not served here; this server has"),
    "no uid": (request(uid="nonsense"), "must read PREFIX.NUMBER"),
    "huge uid": (request(uid="x" * 1_000_000), "the request's uid has 1000000 characters"),
    "beyond the span": (request(uid=f"{PREFIX}.2 {PREFIX}.3"), f"'{PREFIX}.3' is not served here"),
    "descending": (request(uid=f"{PREFIX}.1 {PREFIX}.0"), "does not follow"),
    "hidden size": (request(serialize(np.zeros((1, 4, 65), np.float32))), "expected [batch, tokens, 64]"),
    "two axes": (request(serialize(np.zeros((4, 64), np.float32))), "expected [batch, tokens, 64]"),
    "integers": (request(serialize(np.zeros((1, 4, 64), np.int64))), "hidden states are 'int64'"),
    "strange dtype": (request(replace(HIDDEN, dtype="complex64")), "hidden states are 'complex64'"),
    "no rows": (request(serialize(np.zeros((0, 4, 64), np.float32))), "a batch of 0"),
    "too many rows": (request(replace(HIDDEN, size=(5000, 1, 64))), "a batch of 5000"),
    "too many tokens": (request(replace(HIDDEN, size=(1, 0xFFFF_FFFF, 64))), "4294967295 tokens at once"),
    "truncated tensor": (request(replace(HIDDEN, buffer=bytes(HIDDEN.buffer)[:-4])), "1020 bytes"),
    "unknown compression": (request(replace(HIDDEN, compression=99)), "compression 99 is unknown"),
    "wrong compression": (request(replace(HIDDEN, compression=5)), "payload|bytes|block"),
    "nesting bomb": (raw_metadata(b"\x91" * 5000 + b"\x90"), "nested too deep"),
    "map bomb": (raw_metadata(b"\xdf\xff\xff\xff\xff"), "4294967295|elements|entries|truncated|ends"),
    "text bomb": (raw_metadata(b"\xdb\xff\xff\xff\xff"), "4294967295|truncated|ends|cut|incomplete"),
    "long metadata": (raw_metadata(msgpack.dumps({"x": "y" * 70_000})), "65536 are allowed"),
    "metadata is a list": (raw_metadata(msgpack.dumps([1])), "send a MessagePack map"),
    "structure of one": (request(args_structure=(1,)), "must be a pair"),
    "structure of numbers": (request(args_structure=((1, 2), {})), "b'__T<number>' was expected"),
    "structure beyond": (request(args_structure=((b"__T9",), {})), "points at tensor 9 of 3"),
    "deep prompts": (request(HIDDEN, PROMPTS, NO_ROWS), "deep prompts are 'float32' [2, 1, 2, 64]"),
    "adapter": (request(active_adapter="lora"), "adapter 'lora' is not served"),
    "seventeen tensors": (request(HIDDEN, *[NO_PROMPTS] * 17), "18 tensors in one request"),
    "reply compression": (request(output_compression=(77,)), "'77' is no known compression"),
}


def said(words: str, text: str) -> bool:
    return any(one in text for one in words.split("|"))


@pytest.mark.parametrize("method", ["rpc_forward", "rpc_forward_stream", "rpc_inference"])
def test_a_request_that_cannot_be_served_says_why(caller: RpcCaller, method: str) -> None:
    """The session is opened as it should be wherever it is not the opening that is wrong."""

    async def attack() -> None:
        for name, (message, words) in ANY_REQUEST.items():
            if method == "rpc_forward":
                text = await caller.refused(method, message)
            else:
                text = await caller.refused_in_stream(method, message, end=method != "rpc_inference")
            assert said(words, text), f"{name}: {text}"
            assert "internal error" not in text, name

    caller.run(attack())


OPENINGS = {
    "no length": ({"max_length": None}, "the first message must give a number"),
    "a fraction": ({"max_length": 7.5}, "the first message must give a number"),
    "negative": ({"max_length": -1}, "the first message must give a number"),
    "too long": ({"max_length": 1 << 40}, "Cannot allocate KV cache for 1099511627776 tokens, max = 128"),
    "shorter than the step": ({"max_length": 3}, "exceeds pre-allocated maximum 3"),
    "endless id": ({"session_id": "x" * 1000}, "session_id is"),
    "numeric step": ({"step_id": 7}, "step_id is '7'"),
    "no time": ({"alloc_timeout": float("nan")}, "alloc_timeout is 'nan'"),
    "negative time": ({"alloc_timeout": -1}, "alloc_timeout is '-1'"),
    "points": ({"points": "many"}, "points are 'many'"),
    "rolled back before it began": ({"start_from_position": 3}, "the session is at 0"),
}
STEPS: dict[str, tuple[bytes, str]] = {
    "beyond": (request(STEP, start_from_position=5), "start_from_position is 5, but the session is at 4"),
    "before": (request(STEP, start_from_position=-1), "start_from_position is '-1'"),
    "position of text": (request(STEP, start_from_position="0"), "start_from_position is '0'"),
    "another batch": (request(serialize(np.zeros((2, 1, 64), np.float32))), "opened for a batch of 1"),
    "another uid": (request(STEP, uid=f"{PREFIX}.0"), "the session was opened for"),
    "too many": (request(serialize(np.zeros((1, 29, 64), np.float32))), "Maximum length exceeded"),
    "row out of range": (request(STEP, NO_PROMPTS, rows(1)), "hypo_ids go from 1 to 1; rows are 0 to 0"),
    "negative row": (request(STEP, NO_PROMPTS, rows(-1)), "hypo_ids go from -1"),
    "rows of floats": (request(STEP, NO_PROMPTS, rows(0, dtype=np.float32)), "expected int64 [1]"),
    "rows for two": (request(STEP, NO_PROMPTS, rows(0, 0)), "hypo_ids are int64 [2]; expected int64 [1]"),
    "cut rows": (request(STEP, NO_PROMPTS, replace(rows(0), buffer=b"\0")), "1 bytes|8"),
}


def test_a_session_that_cannot_be_opened_says_why(caller: RpcCaller) -> None:
    async def attack() -> None:
        for name, (options, words) in OPENINGS.items():
            text = await caller.refused_in_stream("rpc_inference", request(**options))
            assert said(words, text), f"{name}: {text}"

    caller.run(attack())


def test_a_step_that_cannot_be_taken_ends_its_own_session(caller: RpcCaller) -> None:
    async def attack() -> None:
        for name, (message, words) in STEPS.items():
            text = await caller.refused_in_stream("rpc_inference", request(), message)
            assert said(words, text), f"{name}: {text}"

    caller.run(attack())


def test_a_repeated_step_is_dropped_and_numbers_that_are_none_stay_ones_own(caller: RpcCaller) -> None:
    async def attack() -> None:
        async with caller.stream("rpc_inference") as stream:
            for _ in range(3):
                await stream.send(request(step_id="one"))
            poison = serialize(np.full((1, 1, 64), np.nan, np.float32))
            await stream.send(request(poison, step_id="two"))
            first, second = await stream.receive(), await stream.receive()
            assert deserialize(ExpertResponse.decode(first).tensors[0]).shape == (1, 4, 64)
            assert np.isnan(deserialize(ExpertResponse.decode(second).tensors[0])).all()

    caller.run(attack())


def test_other_calls_that_cannot_be_served(caller: RpcCaller) -> None:
    async def attack() -> None:
        assert "not served here" in await caller.refused("rpc_info", ExpertUID("other.0").encode())
        assert "not served here" in await caller.refused("rpc_push", request(uid="other.0"))
        wrong = request(HIDDEN, STEP, NO_PROMPTS)
        assert "gradient is float32 [1, 1, 64]" in await caller.refused("rpc_backward", wrong)
        streamed = await caller.refused_in_stream("rpc_backward_stream", wrong, end=True)
        assert "gradient is float32 [1, 1, 64]" in streamed
        assert "before its first message" in await empty_stream(caller)
        with pytest.raises(HandshakeError, match="rpc_steal"):
            await caller.raw("rpc_steal")

    caller.run(attack())


async def empty_stream(caller: RpcCaller) -> str:
    async with caller.stream("rpc_forward_stream") as stream:
        await stream.end()
        with pytest.raises(RpcError) as error:
            await stream.receive()
        return str(error.value)


# --- parts ------------------------------------------------------------------------------------------


def part(tensor: Tensor, uid: str = UID) -> bytes:
    return ExpertRequest(uid, (tensor,)).encode()


FIRST_PART = replace(HIDDEN, buffer=bytes(HIDDEN.buffer)[:8], chunks=4096)
PARTS: dict[str, tuple[list[bytes], str]] = {
    "too many": ([part(FIRST_PART)] + [part(Tensor(b""))] * 4097, "4096 parts"),
    "too many announced": ([part(replace(FIRST_PART, chunks=5000))], "announces 5000 parts"),
    "not the first": ([part(Tensor(b"x" * 8))], "first part must name its dtype"),
    "another tensor within": ([part(FIRST_PART)] * 2, "after 1 of 4096 parts"),
    "not the last": ([part(FIRST_PART), part(Tensor(b"x"))], "stream ends after 2 of a tensor's 4096"),
    "another uid within": ([part(FIRST_PART), part(Tensor(b"x"), "a.0")], "block uids differ"),
    "not enough bytes": ([part(replace(FIRST_PART, chunks=1))], "8 bytes|1024"),
}


def test_parts_that_make_no_tensor(caller: RpcCaller) -> None:
    async def attack() -> None:
        for name, (messages, words) in PARTS.items():
            text = await caller.refused_in_stream("rpc_forward_stream", *messages, end=True)
            assert said(words, text), f"{name}: {text}"

    caller.run(attack())


# --- frames and envelopes -----------------------------------------------------------------------------

FRAMES = {
    "marker": (b"\x07" + bytes(8), b"frame marker is 0x07"),
    "oversize": (b"\0" + (1 << 40).to_bytes(8, "big"), b"frame of 1099511627776 bytes exceeds"),
    "oversize error": (b"\1" + (1 << 20).to_bytes(8, "big"), b"frame of 1048576 bytes exceeds 65536"),
    "after the end": (b"\1" + bytes(8) + b"more", b"follow the last one of the call"),
}


@pytest.mark.parametrize("method", ["rpc_inference", "rpc_forward_stream"])
def test_malformed_frames_are_answered_in_words(caller: RpcCaller, method: str) -> None:
    async def attack() -> None:
        for name, (data, words) in FRAMES.items():
            stream = await caller.raw(method)
            stream.write(data)
            assert words in await everything(stream), name

    caller.run(attack())


async def everything(stream: RawStream) -> bytes:
    data = b""
    while more := await stream.read():
        data += bytes(more)
    stream.close()
    return data


@pytest.mark.parametrize("leave", [RawStream.finish, RawStream.reset], ids=["half-close", "reset"])
def test_leaving_within_a_call_cancels_it(
    swarm: Swarm, caller: RpcCaller, leave: Callable[[RawStream], None]
) -> None:
    async def attack() -> None:
        for method in ("rpc_inference", "rpc_forward_stream", "rpc_forward", "rpc_info"):
            for data in (b"", b"\0", b"\0" + (100).to_bytes(8, "big") + b"half"):
                stream = await caller.raw(method)
                if data:
                    stream.write(data)
                leave(stream)
        async with caller.stream("rpc_inference") as stream:  # it serves on
            await stream.send(request())
            assert await stream.receive() is not None

    caller.run(attack())


def envelope(call_id: bytes = bytes(16), data: bytes = b"") -> bytes:
    return UnaryRequest(call_id, CallUnaryRequest(b"", f"{SERVICE}.rpc_info", data)).encode()


ENVELOPES = {
    "oversize": (varint.encode((4 << 20) + 1), "unary envelope of 4194305 bytes exceeds 4194304"),
    "endless length": (b"\xff" * 16, "varint"),
    "short id": (varint.encode(len(envelope(b"abc"))) + envelope(b"abc"), "call id has 3 bytes, not 16"),
    "no call": (varint.encode(18) + b"\x0a\x10" + bytes(16), "unary envelope holds no call"),
    "garbage": (b"\x05\xff\xff\xff\xff\xff", "rpc_info of"),
    "two at once": ((varint.encode(len(envelope())) + envelope()) * 2, "follow the last one of the call"),
}


def test_malformed_envelopes_end_their_stream(swarm: Swarm, caller: RpcCaller) -> None:
    async def attack() -> None:
        for data, _ in ENVELOPES.values():
            stream = await caller.raw("rpc_info")
            stream.write(data)
            with pytest.raises(StreamReset):
                await everything(stream)

    caller.run(attack())
    for _, words in ENVELOPES.values():
        swarm.server.logs(words)


def test_no_peer_takes_all_that_is_served(swarm: Swarm, caller: RpcCaller) -> None:
    """A thousand calls that never come: further ones of this peer are refused, nobody else's."""

    async def attack() -> None:
        waiting = [await caller.raw("rpc_info") for _ in range(Limits().streams.peer)]
        with pytest.raises(StreamReset):
            await everything(await caller.raw("rpc_info"))
        swarm.bystander.goes_on()
        assert swarm.server.growth < 32 * MEGA
        for stream in waiting:
            stream.reset()
        while True:  # it notices
            try:
                await caller.call("rpc_info", ExpertUID("").encode())
                return
            except StreamReset:
                await asyncio.sleep(0.05)

    caller.run(attack())


def test_unfinished_messages_of_one_peer_are_bounded(swarm: Swarm, caller: RpcCaller) -> None:
    """Frames of 64 MB that never end: the peer is told at 128 MB."""

    async def attack() -> None:
        streams = [await caller.raw("rpc_forward_stream") for _ in range(3)]
        answers = [asyncio.ensure_future(everything(stream)) for stream in streams]
        for stream in streams:
            stream.write(b"\0" + (64 << 20).to_bytes(8, "big"))
        block = bytes(1 << 20)
        for _ in range(60):
            for stream, answer in zip(streams, answers, strict=True):
                if not answer.done():
                    try:
                        stream.write(block)
                        await stream.drain()
                    except StreamReset:
                        pass
        done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert b"bytes of unfinished messages are yours" in done.pop().result()
        for stream in streams:
            stream.reset()
        await asyncio.gather(*answers, return_exceptions=True)

    caller.run(attack())
    swarm.server.shrinks(64 * MEGA)
