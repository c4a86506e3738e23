"""What the nightly proofs share with the browser tests, and what ``make test`` leaves to the night."""

from __future__ import annotations

from browser.conftest import origin, small_model, talking_model, talking_origin
from nightly.sizes import whole

__all__ = ["origin", "small_model", "talking_model", "talking_origin"]

# The same scenes as these, smaller, are in every run: of the first as tests/swarm/test_kad_swarm.py, of the
# second as tests/browser/test_recovery.py, of the third as tests/browser/test_notebook.py.
collect_ignore = [] if whole() else ["test_kad_swarm.py", "test_relay_gone.py", "test_pyscript.py"]
