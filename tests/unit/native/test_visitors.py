"""Sockets of a site: who holds too many loses idle ones, nobody else any, and an answer is never cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kwaainet.libp2p.admission import Admission, Kind, Limits, Origin
from kwaainet.native import http
from kwaainet.native.visitors import Visitors

from .slow_site import Slow

MANY = 200  # idle sockets that one address opens; the site takes few
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Guest:
    """A socket that says something, or nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        return await self.reader.readexactly(4)

    async def ended(self) -> bool:
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True


class Scene:
    """A site, and guests that come from the addresses they say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limits: Limits, most: int) -> None:
        self.site, self.admission, self.most = Slow(), Admission(limits), most
        self.coming = Origin()
        monkeypatch.setattr(self.admission, "origin", lambda peer, host: self.coming)

    async def guest(self, address: bytes = b"\xc0\0\2\1", first: bytes = b"") -> Guest:
        self.coming = Origin(None, address, address[:3])
        before = self.entered
        guest = Guest(*await asyncio.open_connection("127.0.0.1", self.port))
        guest.writer.write(first)
        while self.entered == before:
            await asyncio.sleep(0.001)
        return guest

    def play(self, test: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            runner, address = await http.serve(
                self.site, "127.0.0.1", 0, admission=self.admission, visitors=self.most
            )
            self.port = int(address.rsplit(":", 1)[1].strip("/"))
            self.runner = runner
            try:
                await test()
            finally:
                self.site.go.set()
                await runner.cleanup()

        asyncio.run(asyncio.wait_for(main(), 60))

    entered = 0  # sockets that came, whatever became of them

    def count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = Visitors.enter

        def enter(*given: object) -> bool:
            self.entered += 1
            return made(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(Visitors, "enter", enter)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(monkeypatch, Limits().changed("visits", "2,2,3"), 4)
    made.count(monkeypatch)
    return made


def test_the_longest_idle_of_an_address_with_too_many_gives_way(scene: Scene) -> None:
    async def test() -> None:
        scene.site.go.set()
        other = await scene.guest(b"\xc0\0\3\1")
        first, second = await scene.guest(), await scene.guest()
        first.writer.write(ASK)
        assert await first.answer() == b"well", "which is why the second is idle for longer"
        third = await scene.guest(first=ASK)
        assert await second.ended()
        assert await third.answer() == b"well"
        for one in (other, first):
            one.writer.write(ASK)
            assert await one.answer() == b"well"
        assert scene.admission.refused["too many visits of one address"] == 1
        assert scene.admission.most()[Kind.VISIT] == {"address": 2, "subnet": 2}

    scene.play(test)


def test_of_a_subnet_and_of_all_likewise(scene: Scene) -> None:
    async def test() -> None:
        neighbours = [await scene.guest(bytes((192, 0, 2, last))) for last in (1, 2, 3, 4)]
        assert await neighbours[0].ended()
        elsewhere = [await scene.guest(bytes((198, 51, 100, last))) for last in (1, 2)]
        assert await neighbours[1].ended()
        assert len(scene.runner.server.connections) == 4  # type: ignore[union-attr]
        for one in (*neighbours[2:], *elsewhere):
            one.writer.close()

    scene.play(test)


def test_who_is_being_answered_stays_and_one_more_is_refused(scene: Scene) -> None:
    async def test() -> None:
        busy = [await scene.guest(first=ASK) for _ in range(2)]
        while scene.site.asked < 2:
            await asyncio.sleep(0.001)
        neighbour = await scene.guest(bytes((192, 0, 2, 2)))
        assert await (await scene.guest()).ended()
        neighbour.writer.write(ASK)
        scene.site.go.set()
        assert await neighbour.answer() == b"well", "it has nothing to do with that"
        assert [await one.answer() for one in busy] == [b"well", b"well"]

    scene.play(test)


def test_hundreds_of_idle_sockets_of_one_address_take_no_room_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of them say half a request."""
    scene = Scene(monkeypatch, Limits().changed("visits", "8,8,8"), 16)
    scene.count(monkeypatch)

    async def test() -> None:
        scene.site.go.set()
        friend = await scene.guest(b"\xc0\0\3\1", ASK)
        assert await friend.answer() == b"well"
        for number in range(MANY):
            await scene.guest(first=(b"", b"GET / HT")[number % 2])
            assert len(scene.runner.server.connections) <= 10  # type: ignore[union-attr]
        friend.writer.write(ASK)
        assert await friend.answer() == b"well"
        assert await (await scene.guest(b"\xc0\0\4\1", ASK)).answer() == b"well"

    scene.play(test)
