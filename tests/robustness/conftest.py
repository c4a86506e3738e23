"""One swarm for all attacks: what an attack breaks, the next test or the client beside it sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from robustness.swarm import MEGA, Swarm, small_swarm

STALL = 10.0  # processor seconds that relay and server may spend on others during a step
BALLOON = 128 * MEGA  # bytes a process may grow by in one attack


@pytest.fixture(scope="session")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """The processes; see ``Swarm``."""
    with small_swarm(tmp_path_factory.mktemp("robustness")) as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(swarm: Swarm) -> Iterator[None]:
    """After each attack: both processes run, log no traceback, hold no more memory than a little, and
    the session beside it has gone on without a wrong byte."""
    swarm.relay.mark()
    swarm.server.mark()
    swarm.bystander.slowest = 0.0
    yield
    swarm.bystander.goes_on()
    assert swarm.bystander.slowest < STALL
    for process in (swarm.relay, swarm.server):
        process.is_unharmed()
        process.shrinks(BALLOON)  # what was sent last may still be under way
