"""What the nightly proofs share with the browser tests: a small model on disk and a relay that offers it."""

from __future__ import annotations

from browser.conftest import origin, small_model

__all__ = ["origin", "small_model"]
