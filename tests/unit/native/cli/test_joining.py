import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kwaainet.errors import KwaaiNetError, Unreachable
from kwaainet.native.cli.joining import join_dht, known_addresses, open_host


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
