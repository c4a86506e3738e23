"""``kwaainet relay config``: what a relay would be told, and from where; whether it could run with it.

Rule of the file: nothing is started; secrets are not printed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from ...errors import ConfigError
from ...libp2p.multiaddr import Multiaddr
from ...swarm.bootstraps import spelled_out
from ..assets import find_assets
from ..http import parse_http_address, parse_ice_server
from ..offered import check_offer
from .api import check_api_on_relay, relay_api_options
from .flags import add_command
from .gateway import gateway_options
from .relay_defence import defence_options
from .relay_tls import check_tls, tls_options
from .settings import Setting, Settings, lines

Declare = Callable[[argparse.ArgumentParser], Settings]


def add(actions: Any, declare: Declare) -> None:
    """Declare the command; ``declare`` gives a parser the relay's flags."""
    parser = actions.add_parser("config", help="show or check the settings", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, summary in (
        ("show", "print every setting in effect and the layer it is from"),
        ("check", "say whether a relay could run with these settings"),
    ):
        verb = add_command(verbs, name, summary, f"{summary[0].upper()}{summary[1:]}.")
        settings = declare(verb)
        act = {"show": show, "check": check}[name]
        verb.set_defaults(run=_runner(settings, act))


def _runner(settings: Settings, act: Callable[[dict[str, Setting]], None]) -> Any:
    async def run(options: argparse.Namespace) -> int:
        act(settings.resolve(options, os.environ))
        return 0

    return run


def show(settings: dict[str, Setting]) -> None:
    """As a file that a relay could be given."""
    print("\n".join(lines(settings)))


def check(settings: dict[str, Setting]) -> None:
    """Raises ``ConfigError``, or another of ours, for the first setting that cannot work."""
    values = {name.replace("-", "_"): setting.value for name, setting in settings.items()}
    options = argparse.Namespace(**values)
    http_host, _ = parse_http_address(options.http)
    for server in options.ice_server or ():
        parse_ice_server(server)
    for address in [*(options.listen or ()), *options.announce, *spelled_out(options.initial_peers)]:
        Multiaddr.parse(address)
    keys = [options.api_key_file] if options.api_key_file is not None else []
    for flag, paths in (("--model", options.model or ()), ("--api-key-file", keys)):
        for path in paths:
            if not path.exists():
                raise ConfigError(f"{flag} {path}: no such file or directory")
    check_offer(options.model or (), options.prefix or (), options.model_url, options.repository)
    gateway_options(options)
    defence_options(options).admission()
    check_api_on_relay(relay_api_options(options), http_host, options.model or ())
    listen = options.listen or ()
    for warning in check_tls(tls_options(options), options.announce, listen, time.time()):
        print(f"soon: {warning}")
    find_assets()
    sources = sorted({setting.source for setting in settings.values() if setting.source != "default"})
    print(f"the settings are fine ({', '.join(sources) or 'all of them are defaults'})")
