"""The native host passes the suite of its port over real sockets."""

import asyncio
import os
from typing import Any

import pytest

from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.testing import compliance


def _name(check: Any) -> str:
    return str(check.__name__)


@pytest.mark.parametrize("check", compliance.HOST_CHECKS, ids=_name)
@pytest.mark.parametrize("transport", ["", "/ws"], ids=["tcp", "ws"])
def test_host(check: compliance.HostCheck, transport: str) -> None:
    async def main() -> None:
        callee = await NativeHost.create(PrivateKey(os.urandom(32)), [f"/ip4/127.0.0.1/tcp/0{transport}"])
        caller = await NativeHost.create(PrivateKey(os.urandom(32)))
        try:
            await callee.listen()
            await caller.connect(callee.addresses[0])
            await check(caller, callee)
        finally:
            await caller.close()
            await callee.close()

    asyncio.run(main())
