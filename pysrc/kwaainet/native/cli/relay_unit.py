"""``kwaainet relay install-service``: a relay as a hardened systemd unit.

Follows systemd.exec(5) and systemd.service(5). Rule of the file: the unit starts the very command that
wrote it, with one file of settings; whoever has other wishes edits that file, not the unit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..partial import WrittenFiles
from .flags import add_command, seconds
from .terminal import say

UNIT = "kwaainet-relay.service"
STATE = "kwaainet-relay"  # below /var/lib
CONFIG = "/etc/kwaainet/relay.toml"
DRAIN = 90.0  # seconds
FILES = 65536  # connections, and some
TEMPLATE = """\
[Unit]
Description=KwaaiNet relay
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command} relay --config {config} --state-dir /var/lib/{state} --drain {drain:g}
ExecReload=kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
KillSignal=SIGTERM
TimeoutStopSec={stop:g}
LimitNOFILE={files}
DynamicUser=yes
StateDirectory={state}
StateDirectoryMode=0700
UMask=0077
AmbientCapabilities={capabilities}
CapabilityBoundingSet={capabilities}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute={no_new_code}
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
Environment=PYTHONUNBUFFERED=1

[Install]
WantedBy=multi-user.target
"""


def unit_text(command: Path, config: Path, drain: float, *, low_ports: bool, webrtc: bool = False) -> str:
    """The unit that runs ``command`` with the settings in ``config``; ``low_ports``: those below 1024 too;
    ``webrtc``: memory may be written and run, which the DTLS of WebRTC-Direct needs."""
    for path in (command, config):
        if not path.is_absolute() or any(character in str(path) for character in " \t\n%$\"'\\;"):
            raise ConfigError(f"{str(path)!r:.200} cannot stand in a unit; give a plain absolute path")
    homes = ("/home", "/root", "/run/user")
    home = any(path.is_relative_to(one) for path in (command, config) for one in homes)
    return TEMPLATE.format(
        command=command,
        config=config,
        state=STATE,
        drain=drain,
        stop=drain + 15,
        files=FILES,
        capabilities="CAP_NET_BIND_SERVICE" if low_ports else "",
        home="read-only" if home else "yes",
        no_new_code="no" if webrtc else "yes",
    )


def add(actions: Any) -> None:
    """Declare ``kwaainet relay install-service``."""
    parser = add_command(actions, "install-service", "write a systemd unit for this relay", __doc__)
    parser.add_argument(
        "--config", type=Path, default=Path(CONFIG), metavar="FILE", help="the relay's settings (%(default)s)"
    )
    parser.add_argument(
        "--unit-dir",
        type=Path,
        default=Path("/etc/systemd/system"),
        metavar="DIR",
        help="where the unit is written (%(default)s)",
    )
    parser.add_argument(
        "--drain",
        type=seconds,
        default=DRAIN,
        metavar="SECONDS",
        help="how long circuits in use may go on after it is stopped (%(default)g)",
    )
    parser.add_argument("--low-ports", action="store_true", help="let it listen on ports below 1024")
    parser.add_argument(
        "--webrtc",
        action="store_true",
        help="let it listen on /webrtc-direct, whose DTLS makes code as it runs",
    )
    parser.add_argument("--print", action="store_true", dest="only_print", help="print it, write nothing")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Write the unit, and an empty file of settings if there is none; say how to start it."""
    config = Path(os.path.abspath(options.config))
    text = unit_text(_command(), config, options.drain, low_ports=options.low_ports, webrtc=options.webrtc)
    if options.only_print:
        print(text, end="")
        return 0
    with WrittenFiles(options.unit_dir) as files:
        files.write(UNIT, text.encode())
    if not config.exists():
        with WrittenFiles(config.parent) as files:
            files.write(config.name, EMPTY.encode())
        config.chmod(0o644)  # a dynamic user reads it; keep keys in a file of their own
    say(f"wrote {options.unit_dir / UNIT}; the settings are in {config}")
    say(f"now: {_command()} relay config check --config {config} && systemctl daemon-reload && "
        f"systemctl enable --now {UNIT}")  # fmt: skip
    return 0


EMPTY = """\
# Settings of kwaainet relay, each named as its flag: kwaainet relay --help lists them all.
# With a name of its own and --low-ports, page and WebSockets on one port under a certificate it gets itself:
# http = "0.0.0.0:443"
# listen = ["/ip4/0.0.0.0/tcp/443/tls/ws", "/ip4/0.0.0.0/tcp/4001"]
# announce = ["/dns4/relay.example/tcp/443/tls/ws", "/dns4/relay.example/tcp/4001"]
# redirect = "0.0.0.0:80"
# acme = ["relay.example"]
# Or behind a proxy:
# http = "0.0.0.0:8080"
# listen = ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/tcp/4002/ws"]
# announce = ["/dns4/relay.example/tcp/4001", "/dns4/relay.example/tcp/4002/ws"]
"""


def _command() -> Path:
    """The command ``kwaainet`` of this environment, by its absolute path."""
    beside = Path(sys.executable).with_name("kwaainet")
    found = str(beside) if beside.is_file() else shutil.which("kwaainet")
    if found is None:
        raise ConfigError(f"there is no kwaainet beside {sys.executable} nor on the PATH; install it first")
    return Path(os.path.abspath(found))
