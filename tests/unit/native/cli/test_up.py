from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.cli.up import default_model, split_blocks
from kwaainet.types import BlockRange


@pytest.mark.parametrize(
    ("blocks", "tabs", "spans"),
    [(30, 1, ["0:30"]), (30, 2, ["0:15", "15:30"]), (5, 3, ["0:1", "1:3", "3:5"]), (2, 2, ["0:1", "1:2"])],
)
def test_tabs_share_the_blocks(blocks: int, tabs: int, spans: list[str]) -> None:
    assert split_blocks(blocks, tabs) == [BlockRange.parse(span) for span in spans]


@pytest.mark.parametrize("tabs", [0, -1, 6])
def test_more_tabs_than_blocks_are_refused(tabs: int) -> None:
    with pytest.raises(ConfigError, match="--tabs"):
        split_blocks(5, tabs)


def test_the_model_can_be_named_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    monkeypatch.setenv("KWAAINET_MODEL", str(model))
    with pytest.raises(ConfigError, match="make setup"):
        default_model()
    model.write_bytes(b"GGUF")
    assert default_model() == model
