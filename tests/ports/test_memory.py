"""The adapters in memory pass the same suites as those of the runtimes."""

from typing import Any

import pytest

from kwaainet.testing import compliance
from kwaainet.testing.clock import run
from kwaainet.testing.host import MemoryNetwork
from kwaainet.testing.store import MemorySource, MemoryStore


def _name(check: Any) -> str:
    return str(check.__name__)


@pytest.mark.parametrize("check", compliance.HOST_CHECKS, ids=_name)
@pytest.mark.parametrize("seed", [1, 2])
def test_host(check: compliance.HostCheck, seed: int) -> None:
    async def main() -> None:
        network = MemoryNetwork(seed)
        caller, callee = network.host(), network.host()
        await callee.listen()
        await check(caller, callee)

    run(main())


@pytest.mark.parametrize("check", compliance.STORE_CHECKS, ids=_name)
def test_store(check: Any) -> None:
    run(check(MemoryStore()))


@pytest.mark.parametrize("check", compliance.SOURCE_CHECKS, ids=_name)
def test_source(check: Any) -> None:
    run(check(MemorySource({compliance.SAMPLE_FILE: compliance.SAMPLE})))
