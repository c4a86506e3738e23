"""What outlives a run is in one folder, whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.state_dir import MAX_BYTES, MAX_PEERS, PEERS, StateDir


def test_peers_are_kept_and_bounded(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "a" / "b")
    assert state.known_peers() == []
    state.keep_peers(f"/ip4/1.2.3.4/tcp/{port}" for port in range(1, 200))
    assert StateDir(state.path).known_peers() == [
        f"/ip4/1.2.3.4/tcp/{port}" for port in range(1, MAX_PEERS + 1)
    ]
    assert [file.name for file in state.path.iterdir()] == [PEERS]
    assert state.identity == state.path / "identity.key"
    assert state.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("data", [b"[1]", b"{}", b"\xff", b"[" * 60000, b" " * (MAX_BYTES + 1), b'["a"'])
def test_a_damaged_file_costs_no_start(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / PEERS).write_bytes(data)
    assert StateDir(tmp_path).known_peers() == []
    assert "is left aside" in caplog.text


def test_a_folder_that_cannot_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        StateDir(tmp_path / "file" / "state")
    state = StateDir(tmp_path / "state")
    (state.path / f"{PEERS}.part").mkdir()
    state.keep_peers(["a"])
    assert "cannot be kept" in caplog.text


def test_a_full_disk_keeps_what_was_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDir(tmp_path)
    state.keep_peers(["one"])

    def full(self: Path, text: str) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    state.keep_peers(["two"])
    assert "No space left" in caplog.text
    assert state.known_peers() == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["peers.json"]


def test_bans_are_kept_as_they_are(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert state.bans() == b""
    state.keep_bans("[]\n")
    assert StateDir(tmp_path).bans() == b"[]\n"
    assert state.socket == tmp_path / "admin.sock"
    (tmp_path / "bans.json").unlink()
    (tmp_path / "bans.json").mkdir()
    assert state.bans() == b"", "what cannot be read costs no start"
    state.keep_bans("[]\n")
