"""A suite is worth what it refuses: adapters broken on purpose must fail their check."""

from collections.abc import Callable

import pytest

from kwaainet.errors import KwaaiNetError, RpcError
from kwaainet.ports import Host, Stream, StreamHandler, UnaryHandler
from kwaainet.testing import compliance, stream
from kwaainet.testing.clock import run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import PeerId


def check(suite: compliance.HostCheck, spoil: Callable[[MemoryHost, MemoryHost], None]) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        caller, callee = network.host(), network.host()
        await callee.listen()
        spoil(caller, callee)
        await suite(caller, callee)

    with pytest.raises((AssertionError, KwaaiNetError, TimeoutError)):
        run(main())


def test_every_check_is_in_a_list() -> None:
    listed = {*compliance.HOST_CHECKS, *compliance.STORE_CHECKS, *compliance.SOURCE_CHECKS}
    written = {value for name, value in vars(compliance).items() if name.startswith("check_")}
    assert written == listed


def test_a_reply_that_changes_is_caught() -> None:
    def spoil(caller: MemoryHost, callee: MemoryHost) -> None:
        real = caller.call

        async def call(peer: PeerId, protocol: str, request: bytes, *, timeout: float) -> bytes:
            return (await real(peer, protocol, request, timeout=timeout))[:-1]

        caller.call = call  # type: ignore[method-assign]

    check(compliance.check_unary_roundtrip, spoil)
    check(compliance.check_large_unary_messages, spoil)
    check(compliance.check_concurrent_calls_are_not_mixed_up, spoil)


def test_an_error_with_too_many_words_is_caught() -> None:
    def spoil(caller: MemoryHost, callee: MemoryHost) -> None:
        real_unary, real_stream = callee.handle_unary, callee.handle_stream

        def handle_unary(protocol: str, handler: UnaryHandler) -> None:
            async def tell_all(peer: PeerId, request: bytes) -> bytes:
                try:
                    return await handler(peer, request)
                except Exception as error:
                    raise RpcError(repr(error)) from error

            real_unary(protocol, tell_all)

        def handle_stream(protocol: str, handler: StreamHandler) -> None:
            async def tell_all(stream: Stream) -> None:
                try:
                    await handler(stream)
                except Exception as error:
                    raise RpcError(str(error)) from error

            real_stream(protocol, tell_all)

        callee.handle_unary = handle_unary  # type: ignore[method-assign]
        callee.handle_stream = handle_stream  # type: ignore[method-assign]

    check(compliance.check_unary_errors_reach_the_caller, spoil)
    check(compliance.check_stream_errors_reach_the_caller, spoil)


def test_endless_buffering_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WINDOW", 1 << 40)
    check(compliance.check_back_pressure, lambda caller, callee: None)


def test_leaving_without_a_word_is_caught() -> None:
    def spoil(caller: MemoryHost, callee: MemoryHost) -> None:
        async def close() -> None:
            callee._network.vanish(callee.peer_id)

        callee.close = close  # type: ignore[method-assign]

    check(compliance.check_close_sends_an_error_to_open_streams, spoil)


def test_a_host_that_answers_for_anybody_is_caught() -> None:
    def spoil(caller: MemoryHost, callee: MemoryHost) -> None:
        async def call(peer: PeerId, protocol: str, request: bytes, *, timeout: float) -> bytes:
            return b""

        caller.call = call  # type: ignore[method-assign]

    check(compliance.check_unknown_protocol, spoil)
    check(compliance.check_unreachable_peer, spoil)
    check(compliance.check_call_timeout, spoil)


def test_a_trusting_store_is_caught() -> None:
    class Trusting(MemoryStore):
        async def put(self, digest: str, data: bytes) -> None:
            self.blobs[digest] = data

    for suite in compliance.STORE_CHECKS[1:]:
        with pytest.raises(AssertionError):
            run(suite(Trusting()))


def test_a_source_that_reads_short_is_caught() -> None:
    class Short(MemorySource):
        async def read(self, file: str, offset: int, length: int) -> bytes:
            return self._files.get(file, b"")[offset : offset + length]

    with pytest.raises(AssertionError):
        run(
            compliance.check_source_names_a_short_or_missing_file(
                Short({compliance.SAMPLE_FILE: compliance.SAMPLE})
            )
        )


def test_hosts_are_ports() -> None:
    host: Host = MemoryNetwork().host()
    assert host.peer_id
