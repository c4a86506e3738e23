"""What a server says of its own speed."""

from __future__ import annotations

import pytest

from kwaainet.inference.writer import span_shape
from kwaainet.node.model import load_span
from kwaainet.node.rates import Rates, measure, throughput
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange

SPAN = BlockRange(1, 3)
MANIFEST, FILES = random_model()


@pytest.mark.parametrize(
    ("seconds", "tokens", "runs"), [(0.5, 16, 3), (0.02, 16, 5), (0.0011, 45, 10), (0.0005, 64, 10)]
)
def test_rates_are_measured_on_the_engine_and_soon(seconds: float, tokens: int, runs: int) -> None:
    async def main() -> None:
        engine = FaultyEngine()
        await load_span(MANIFEST, SPAN, MemorySource(FILES), MemoryStore(), engine)
        engine.seconds_per_run = seconds
        started = now()
        rates = await measure(engine, span_shape(TINY, SPAN), now)
        assert rates.inference == pytest.approx(2 / seconds, rel=1e-3)
        assert rates.forward == pytest.approx(2 * tokens / seconds, rel=1e-3)
        assert now() - started == pytest.approx(runs * seconds, rel=1e-3)
        assert engine.open_caches == set()

    run(main())


def test_one_number_is_the_slower_of_computing_and_network() -> None:
    rates = Rates(inference=10.0, forward=90.0)
    assert throughput(rates, 2, network=1000.0, using_relay=False) == 60.0
    assert throughput(rates, 2, network=40.0, using_relay=False) == 40.0
    assert throughput(rates, 2, network=40.0, using_relay=True) == 8.0
    assert throughput(None, 2, network=40.0, using_relay=True) == 8.0
