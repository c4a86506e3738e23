"""The systemd unit: what systemd itself says of it, where there is one, and that nothing is overwritten."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.cli.main import main
from kwaainet.native.cli.relay_unit import UNIT, unit_text


def settings_of(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def test_the_unit_is_hardened_and_drains(tmp_path: Path) -> None:
    text = unit_text(
        Path("/opt/kwaainet/bin/kwaainet"), Path("/etc/kwaainet/relay.toml"), 20.0, low_ports=False
    )
    unit = settings_of(text)
    assert unit["ExecStart"] == (
        "/opt/kwaainet/bin/kwaainet relay --config /etc/kwaainet/relay.toml "
        "--state-dir /var/lib/kwaainet-relay --drain 20"
    )
    assert (unit["DynamicUser"], unit["ProtectSystem"], unit["Restart"]) == ("yes", "strict", "on-failure")
    assert (unit["LimitNOFILE"], unit["KillSignal"]) == ("65536", "SIGTERM")
    assert float(unit["TimeoutStopSec"]) > 20
    assert unit["CapabilityBoundingSet"] == ""
    assert unit["ProtectHome"] == "yes"


def test_what_lies_in_a_home_can_be_read_and_low_ports_be_had() -> None:
    unit = settings_of(unit_text(Path("/home/me/bin/kwaainet"), Path("/etc/r.toml"), 0.0, low_ports=True))
    assert unit["ProtectHome"] == "read-only"
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"


def test_webrtc_may_make_code_and_nothing_else_may() -> None:
    command, config = Path("/bin/kwaainet"), Path("/etc/r.toml")
    kept = settings_of(unit_text(command, config, 1.0, low_ports=False))
    let = settings_of(unit_text(command, config, 1.0, low_ports=False, webrtc=True))
    assert (kept["MemoryDenyWriteExecute"], let["MemoryDenyWriteExecute"]) == ("yes", "no")
    assert kept["ExecReload"].endswith("-HUP $MAINPID"), "the certificate is read anew"


@pytest.mark.parametrize("name", ["relay.toml", "/a b", "/a%i", "/a\nExecStartPre=/bin/sh", "/$HOME"])
def test_a_path_that_would_mean_something_else_in_a_unit(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a unit"):
        unit_text(Path("/bin/kwaainet"), Path(name), 1.0, low_ports=False)


def test_it_writes_the_unit_and_settings_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, units = tmp_path / "etc" / "relay.toml", tmp_path / "units"
    words = ["relay", "install-service", "--config", str(config), "--unit-dir", str(units)]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert f"relay config check --config {config}" in said
    assert settings_of((units / UNIT).read_text())["ExecStart"].split()[1:4] == [
        "relay",
        "--config",
        str(config),
    ]
    assert main(["relay", "config", "show", "--config", str(config)]) == 0
    config.write_text('http = "127.0.0.1:1"\n')
    assert main(words) == 2
    assert "holds kwaainet-relay.service already" in capsys.readouterr().err
    assert config.read_text() == 'http = "127.0.0.1:1"\n'


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    text = unit_text(Path(sys.executable).absolute(), Path("/etc/kwaainet/relay.toml"), 30.0, low_ports=True)
    (tmp_path / UNIT).write_text(text)
    if analyze is not None:  # not on every machine that runs these tests
        done = subprocess.run([analyze, "verify", tmp_path / UNIT], capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    known = {"Description", "Wants", "After", "WantedBy", "Environment", "UMask"}
    assert len(settings_of(text).keys() - known) > 25
