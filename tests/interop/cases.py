"""The models that interop tests serve, each with the same weights for stock peers."""

from pathlib import Path
from typing import Any


class Case:
    """One model: what a tab serves (``served``), the same weights for stock peers (``folder``)."""

    def __init__(self, served: Path, folder: Path, prefix: str, blocks: int) -> None:
        self.served, self.folder, self.prefix, self.blocks = served, folder, prefix, blocks

    def spec(self, initial_peer: str, **checks: Any) -> dict[str, Any]:
        return {
            "model": str(self.folder),
            "initial_peers": [initial_peer],
            "dht_prefix": self.prefix,
            **checks,
        }
