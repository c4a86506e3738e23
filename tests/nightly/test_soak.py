"""A relay whose guests come and go takes no more than it did, and fails none of them."""

from __future__ import annotations

from pathlib import Path

from nightly.sizes import size, whole
from nightly.soak import NEWCOMERS, SETTLE, soak


def test_churn(tmp_path: Path) -> None:
    report = soak(
        tmp_path,
        guests=size(12, 600),
        seconds=size(3.0, 7200.0),
        newcomers=size(12, NEWCOMERS),
        settle=size(0.5, SETTLE),
        seed=0,
        mean_life=size(2.0, 120.0),
        ask_every=size(0.3, 30.0),
        sample_every=size(0.2, 1.0),
    )
    print(report)
    assert not report.failures, report.seen
    assert report.seen["answered"] > 0
    if whole():
        for name, found in report.slopes().items():
            assert found.is_zero, (name, str(found))
