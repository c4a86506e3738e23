"""Compliance suites: what every adapter of a port must do, as plain coroutines.

Each ``check_…`` takes adapters that are ready to use and raises ``AssertionError``. A test runs
all of ``HOST_CHECKS``, ``STORE_CHECKS`` and ``SOURCE_CHECKS`` over its adapter.
Rule of the file: only what ``ports`` promises is checked, and no check waits for real time to pass
longer than ``PATIENCE``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from ..errors import (
    IntegrityError,
    ModelFileError,
    RemoteError,
    RequestError,
    RpcError,
    StreamReset,
    Unreachable,
)
from ..ports import BlobStore, Host, RangeSource, Stream
from ..types import PeerId

PATIENCE = 20.0  # seconds a check allows for one answer on a loaded machine
SHORT = 0.5  # seconds after which a check that wants a timeout gives up
LARGE = 3 * 1024 * 1024  # bytes; below the unary cap of 4 MiB, above every flow-control window
FLOOD = 64  # messages of 64 KiB: 4 MiB, more than any adapter may buffer for a reader that sleeps


async def check_unary_roundtrip(caller: Host, callee: Host) -> None:
    seen: list[PeerId] = []

    async def echo(peer: PeerId, request: bytes) -> bytes:
        seen.append(peer)
        return request + b"!"

    callee.handle_unary("Check.rpc_echo", echo)
    assert await _call(caller, callee, "Check.rpc_echo", b"hello") == b"hello!"
    assert await _call(caller, callee, "Check.rpc_echo", b"") == b"!"
    assert seen == [caller.peer_id] * 2


async def check_concurrent_calls_are_not_mixed_up(caller: Host, callee: Host) -> None:
    async def reverse(peer: PeerId, request: bytes) -> bytes:
        await asyncio.sleep(0.02 if request[-1] % 2 else 0)
        return request[::-1]

    callee.handle_unary("Check.rpc_reverse", reverse)
    requests = [b"request %d" % number for number in range(32)]
    replies = await asyncio.gather(*(_call(caller, callee, "Check.rpc_reverse", r) for r in requests))
    assert replies == [request[::-1] for request in requests]


async def check_large_unary_messages(caller: Host, callee: Host) -> None:
    async def double(peer: PeerId, request: bytes) -> bytes:
        return bytes(reversed(request))

    callee.handle_unary("Check.rpc_large", double)
    request = bytes(range(256)) * (LARGE // 256)
    assert await _call(caller, callee, "Check.rpc_large", request) == request[::-1]


async def check_unary_errors_reach_the_caller(caller: Host, callee: Host) -> None:
    async def refuse(peer: PeerId, request: bytes) -> bytes:
        raise RequestError("block 7 is not served here")

    async def crash(peer: PeerId, request: bytes) -> bytes:
        raise ZeroDivisionError("a secret of the callee")

    callee.handle_unary("Check.rpc_refuse", refuse)
    callee.handle_unary("Check.rpc_crash", crash)
    error = await _raises(RpcError, _call(caller, callee, "Check.rpc_refuse", b""))
    assert "RequestError" in str(error), f"repr of the error expected, got {error}"
    assert "block 7 is not served here" in str(error), f"the callee's words expected, got {error}"
    error = await _raises(RpcError, _call(caller, callee, "Check.rpc_crash", b""))
    assert "a secret of the callee" not in str(error), "an unexpected exception must stay at home"


async def check_unknown_protocol(caller: Host, callee: Host) -> None:
    await _raises(RemoteError, _call(caller, callee, "Check.rpc_nobody_serves", b""))
    await _raises(
        RemoteError, caller.open_stream(callee.peer_id, "Check.rpc_nobody_serves", timeout=PATIENCE)
    )


async def check_unreachable_peer(caller: Host, callee: Host) -> None:
    stranger = PeerId(bytes.fromhex("002408011220") + bytes(range(32)))
    await _raises(Unreachable, caller.call(stranger, "Check.rpc_echo", b"", timeout=PATIENCE))
    await _raises(Unreachable, caller.open_stream(stranger, "Check.rpc_echo", timeout=PATIENCE))


async def check_call_timeout(caller: Host, callee: Host) -> None:
    async def sleep(peer: PeerId, request: bytes) -> bytes:
        await asyncio.sleep(PATIENCE)
        return b"too late"

    callee.handle_unary("Check.rpc_sleep", sleep)
    await _raises(TimeoutError, caller.call(callee.peer_id, "Check.rpc_sleep", b"", timeout=SHORT))
    await check_unary_roundtrip(caller, callee)


async def check_cancelled_call_leaves_the_host_usable(caller: Host, callee: Host) -> None:
    started = asyncio.Event()

    async def hang(peer: PeerId, request: bytes) -> bytes:
        started.set()
        await asyncio.sleep(PATIENCE)
        return b""

    callee.handle_unary("Check.rpc_hang", hang)
    call = asyncio.create_task(_call(caller, callee, "Check.rpc_hang", b""))
    await asyncio.wait_for(started.wait(), PATIENCE)
    call.cancel()
    await _raises(asyncio.CancelledError, call)
    await check_unary_roundtrip(caller, callee)


async def check_stream_roundtrip(caller: Host, callee: Host) -> None:
    callee.handle_stream("Check.rpc_stream_echo", _echo)
    stream = await _open(caller, callee, "Check.rpc_stream_echo")
    assert stream.remote_peer == callee.peer_id
    for message in (b"one", b"", b"x" * 100_000):
        await stream.send(message)
        assert await _receive(stream) == message
    await stream.end()
    assert await _receive(stream) is None, "the callee returned: end of stream expected"
    assert await _receive(stream) is None, "the end must stay the end"
    await stream.close()
    await stream.close()


async def check_streams_side_by_side(caller: Host, callee: Host) -> None:
    callee.handle_stream("Check.rpc_stream_echo", _echo)
    streams = [await _open(caller, callee, "Check.rpc_stream_echo") for _ in range(8)]
    for number, stream in enumerate(streams):
        await stream.send(b"%d" % number)
    for number, stream in reversed(list(enumerate(streams))):
        assert await _receive(stream) == b"%d" % number
    for stream in streams:
        await stream.close()


async def check_large_stream_messages(caller: Host, callee: Host) -> None:
    callee.handle_stream("Check.rpc_stream_echo", _echo)
    stream = await _open(caller, callee, "Check.rpc_stream_echo")
    message = bytes(range(256)) * (LARGE // 256)
    sending = asyncio.create_task(stream.send(message))
    assert await _receive(stream) == message
    await sending
    await stream.close()


async def check_back_pressure(caller: Host, callee: Host) -> None:
    """A reader that sleeps stops the sender; when it reads, everything arrives in order."""
    wake = asyncio.Event()

    async def count(stream: Stream) -> None:
        await wake.wait()
        numbers = []
        while (message := await stream.receive()) is not None:
            numbers.append(message[0])
        await stream.send(bytes(numbers))

    async def flood(stream: Stream) -> None:
        for number in range(FLOOD):
            await stream.send(bytes([number]) * 65_536)
        await stream.end()

    callee.handle_stream("Check.rpc_count", count)
    stream = await _open(caller, callee, "Check.rpc_count")
    flooding = asyncio.create_task(flood(stream))
    await asyncio.wait([flooding], timeout=SHORT)
    assert not flooding.done(), f"{FLOOD} messages of 64 KiB were sent though nobody reads"
    wake.set()
    assert await _receive(stream) == bytes(range(FLOOD))
    await flooding
    await stream.close()


async def check_stream_errors_reach_the_caller(caller: Host, callee: Host) -> None:
    async def refuse(stream: Stream) -> None:
        await stream.receive()
        raise RequestError("dtype complex64 is not served")

    async def crash(stream: Stream) -> None:
        raise ZeroDivisionError("a secret of the callee")

    callee.handle_stream("Check.rpc_stream_refuse", refuse)
    callee.handle_stream("Check.rpc_stream_crash", crash)
    stream = await _open(caller, callee, "Check.rpc_stream_refuse")
    await stream.send(b"?")
    error = await _raises(RpcError, _receive(stream))
    assert str(error) == "dtype complex64 is not served"
    await stream.close()
    stream = await _open(caller, callee, "Check.rpc_stream_crash")
    error = await _raises(RpcError, _receive(stream))
    assert "a secret of the callee" not in str(error), "an unexpected exception must stay at home"
    await stream.close()


async def check_caller_gives_up(caller: Host, callee: Host) -> None:
    """A caller's close() without end() is a cancellation: the callee's receive() raises."""
    outcome: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def wait(stream: Stream) -> None:
        await stream.send(b"ready")
        try:
            await stream.receive()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_result(error)
            raise

    callee.handle_stream("Check.rpc_wait", wait)
    stream = await _open(caller, callee, "Check.rpc_wait")
    assert await _receive(stream) == b"ready"
    await stream.close()
    error = await asyncio.wait_for(outcome, PATIENCE)
    assert isinstance(error, StreamReset | asyncio.CancelledError), f"the callee saw {error!r}"


async def check_callee_ends_first(caller: Host, callee: Host) -> None:
    async def greet(stream: Stream) -> None:
        await stream.send(b"hello")

    callee.handle_stream("Check.rpc_greet", greet)
    stream = await _open(caller, callee, "Check.rpc_greet")
    assert await _receive(stream) == b"hello"
    assert await _receive(stream) is None
    await stream.close()


async def check_close_sends_an_error_to_open_streams(caller: Host, callee: Host) -> None:
    """Run last: it closes the callee."""
    callee.handle_stream("Check.rpc_stream_echo", _echo)
    stream = await _open(caller, callee, "Check.rpc_stream_echo")
    await stream.send(b"x")
    assert await _receive(stream) == b"x"
    await callee.close()
    error = await _raises(RpcError, _receive(stream))
    assert str(error), "an empty error frame means end of stream to Hivemind"
    await stream.close()
    await callee.close()


async def check_store_keeps_what_it_is_given(store: BlobStore) -> None:
    for data in (b"a block of weights", b"", bytes(range(256)) * 4096):
        digest = hashlib.sha256(data).hexdigest()
        assert await store.get(digest) is None
        await store.put(digest, data)
        await store.put(digest, data)
        assert await store.get(digest) == data


async def check_store_refuses_a_wrong_digest(store: BlobStore) -> None:
    digest = hashlib.sha256(b"one thing").hexdigest()
    await _raises(IntegrityError, store.put(digest, b"another thing"))
    assert await store.get(digest) is None


async def check_store_refuses_what_is_not_a_digest(store: BlobStore) -> None:
    for digest in ("", "../../etc/passwd", "A" * 64, "0" * 63):
        await _raises(IntegrityError, store.put(digest, b"data"))
        await store.put_part(digest, 0, b"data")
        assert await store.get(digest) is None
        assert await store.get_part(digest) == b""


async def check_store_keeps_parts_until_the_whole_is_there(store: BlobStore) -> None:
    data = bytes(range(256)) * 1000
    digest = hashlib.sha256(data).hexdigest()
    assert await store.get_part(digest) == b""
    await store.put_part(digest, 0, data[:1000])
    await store.put_part(digest, 2000, data[2000:3000])
    await store.put_part(digest, 1000, data[1000:1500])
    assert await store.get_part(digest) == data[:1500], "a part ends where a gap begins"
    assert await store.get(digest) is None, "a part is not the blob"
    await store.put_part(digest, 0, data[:10])
    assert await store.get_part(digest) == data[:10], "at 0 a part begins anew"
    await store.put_part(digest, 0, b"")
    assert await store.get_part(digest) == b""
    await store.put_part(digest, 0, data[:1000])
    await store.put(digest, data)
    assert await store.get_part(digest) == b"", "nobody needs it any more"
    assert await store.get(digest) == data


SAMPLE_FILE: Final = "sub/sample.bin"
SAMPLE: Final = bytes(range(256)) * 1000


async def check_source_reads_ranges(source: RangeSource) -> None:
    """The source must hold ``SAMPLE`` as ``SAMPLE_FILE``."""
    for offset, length in ((0, 10), (255, 3), (0, len(SAMPLE)), (len(SAMPLE) - 1, 1), (77, 0)):
        assert await source.read(SAMPLE_FILE, offset, length) == SAMPLE[offset : offset + length]


async def check_source_reads_at_once(source: RangeSource) -> None:
    parts = await asyncio.gather(*(source.read(SAMPLE_FILE, at, 100) for at in range(0, 3200, 100)))
    assert b"".join(parts) == SAMPLE[:3200]


async def check_source_names_a_short_or_missing_file(source: RangeSource) -> None:
    error = await _raises(ModelFileError, source.read(SAMPLE_FILE, len(SAMPLE) - 5, 6))
    assert SAMPLE_FILE in str(error), f"the file's name is missing from: {error}"
    error = await _raises(ModelFileError, source.read("absent.bin", 0, 1))
    assert "absent.bin" in str(error), f"the file's name is missing from: {error}"


HostCheck = Callable[[Host, Host], Awaitable[None]]

HOST_CHECKS: Final[tuple[HostCheck, ...]] = (
    check_unary_roundtrip,
    check_concurrent_calls_are_not_mixed_up,
    check_large_unary_messages,
    check_unary_errors_reach_the_caller,
    check_unknown_protocol,
    check_unreachable_peer,
    check_call_timeout,
    check_cancelled_call_leaves_the_host_usable,
    check_stream_roundtrip,
    check_streams_side_by_side,
    check_large_stream_messages,
    check_back_pressure,
    check_stream_errors_reach_the_caller,
    check_caller_gives_up,
    check_callee_ends_first,
    check_close_sends_an_error_to_open_streams,
)
STORE_CHECKS: Final[tuple[Callable[[BlobStore], Awaitable[None]], ...]] = (
    check_store_keeps_what_it_is_given,
    check_store_refuses_a_wrong_digest,
    check_store_refuses_what_is_not_a_digest,
    check_store_keeps_parts_until_the_whole_is_there,
)
SOURCE_CHECKS: Final[tuple[Callable[[RangeSource], Awaitable[None]], ...]] = (
    check_source_reads_ranges,
    check_source_reads_at_once,
    check_source_names_a_short_or_missing_file,
)


async def _echo(stream: Stream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def _call(caller: Host, callee: Host, protocol: str, request: bytes) -> bytes:
    return await caller.call(callee.peer_id, protocol, request, timeout=PATIENCE)


async def _open(caller: Host, callee: Host, protocol: str) -> Stream:
    return await caller.open_stream(callee.peer_id, protocol, timeout=PATIENCE)


async def _receive(stream: Stream) -> bytes | None:
    return await asyncio.wait_for(stream.receive(), PATIENCE)


async def _raises(kind: type[BaseException], awaited: Awaitable[object]) -> BaseException:
    try:
        result = await awaited
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} expected, got {result!r}")
