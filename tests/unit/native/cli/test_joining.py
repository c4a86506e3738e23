import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from interop.running import free_port

from kwaainet.errors import KwaaiNetError, Unreachable
from kwaainet.native.cli import joining
from kwaainet.native.cli.joining import join_dht, known_addresses, open_host
from kwaainet.swarm.bootstraps import BOOTSTRAPS


def test_two_hosts_share_a_swarm_and_close_with_the_stack(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            one = await open_host(stack, listen=["/ip4/127.0.0.1/tcp/0"], identity_path=tmp_path / "key")
            await one.listen()
            await join_dht(stack, one, [])
            other = await open_host(stack)
            dht = await join_dht(stack, other, [one.addresses[0]], client_mode=True)
            assert await dht.get("nothing") is None
        with pytest.raises(KwaaiNetError):
            await other.connect(str(one.addresses[0] if one.addresses else "/ip4/127.0.0.1/tcp/9"))

    asyncio.run(main())
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_peer_known_before_will_do_for_one_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    gone = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWFw697Ur2KZ2SSjvP8Md1udsjrXzbsKEaFVAY5dc6hYWn"

    async def main() -> None:
        async with AsyncExitStack() as stack:
            one = await open_host(stack, listen=["/ip4/127.0.0.1/tcp/0"])
            await one.listen()
            await join_dht(stack, one, [])
            other = await open_host(stack, listen=["/ip4/127.0.0.1/tcp/0"])
            await other.listen()
            with pytest.raises(Unreachable, match="tcp/9"):
                await join_dht(stack, other, [gone])
            dht = await join_dht(stack, other, [gone], known=[one.addresses[0]])
            assert known_addresses(other, dht) == [one.addresses[0]]
            third = await open_host(stack)
            await join_dht(stack, third, [], known=[gone])  # nobody is left: the first of a new swarm

    asyncio.run(main())
    assert caplog.text.count("tcp/9") == 2


def test_a_node_that_lost_everybody_goes_back_to_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "LOOK_PERIOD", 0.01)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            bootstraps: list[str] = []
            listen = [f"/ip4/127.0.0.1/tcp/{free_port()}"]
            for run in range(2):  # the second is the first, restarted at the same address
                async with AsyncExitStack() as process:
                    one = await open_host(process, listen=listen, identity_path=tmp_path / "key")
                    await one.listen()
                    await join_dht(process, one, [])
                    if not run:
                        bootstraps.append(one.addresses[0])
                        other = await open_host(stack, listen=["/ip4/127.0.0.1/tcp/0"])
                        await other.listen()
                        dht = await join_dht(stack, other, bootstraps)
                    while dht.table.id_of(one.peer_id) is None:
                        await asyncio.sleep(0.01)
                for neighbour in list(dht.table):  # as its calls would find out in time
                    dht.table.remove(neighbour.node_id)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_swarms_name_stands_for_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            one = await open_host(stack, listen=["/ip4/127.0.0.1/tcp/0"])
            await one.listen()
            await join_dht(stack, one, [])
            monkeypatch.setitem(BOOTSTRAPS, "ours", (one.addresses[0],))
            other = await open_host(stack)
            dht = await join_dht(stack, other, ["ours"], client_mode=True)
            assert dht.table.id_of(one.peer_id) is not None

    asyncio.run(main())
