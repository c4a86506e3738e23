import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kwaainet.errors import KwaaiNetError
from kwaainet.native.cli.joining import join_dht, open_host


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
