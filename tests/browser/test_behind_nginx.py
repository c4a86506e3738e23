"""A relay behind a real nginx with the example's settings: a tab serves, and clients keep their address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import picows
import pytest
from authority import Authority, Issued
from browser.peers import PREFIX, expected, hidden_states, joined
from browser.tabs import PATIENCE, POLL, SOON, open_tab
from interop.running import KWAAINET, ROOT, free_port, relay, started

from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native.chromium import Browser
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.link import Link
from kwaainet.native.network import Network
from kwaainet.native.transport import WsWire

NGINX = ROOT / ".cache" / "debian" / "usr" / "sbin" / "nginx"
EXAMPLE = ROOT / "build" / "proxy" / "nginx.conf"
FOLDERS = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
CLIENT = "127.0.0.77"  # this machine's too, and not the proxy's


@contextlib.contextmanager
def nginx(folder: Path, upstream: int, secure: int, plain: int, issued: Issued) -> Iterator[None]:
    """The example, with this test's ports, files and name in place of its own."""
    folder.mkdir()
    text = EXAMPLE.read_text()
    for written, own in (
        ("127.0.0.1:8080", f"127.0.0.1:{upstream}"),
        ("[::]:443", f"[::1]:{secure}"),
        ("listen 443", f"listen 127.0.0.1:{secure}"),
        ("[::]:80", f"[::1]:{plain}"),
        ("listen 80", f"listen 127.0.0.1:{plain}"),
        ("/etc/letsencrypt/live/relay.example/fullchain.pem", str(issued.cert)),
        ("/etc/letsencrypt/live/relay.example/privkey.pem", str(issued.key)),
        ("relay.example", "localhost"),
    ):
        assert written in text
        text = text.replace(written, own)
    (folder / "site.conf").write_text(text)
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in FOLDERS)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}include site.conf; }}\n"
    )
    command = [NGINX, "-p", folder, "-c", folder / "nginx.conf"]
    with started(command, folder, "nginx") as running:
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", secure), SOON).close()
                break
            assert running.process.poll() is None, running.tail()
            time.sleep(POLL)
        yield


async def connected_from(host: str, address: str, context: ssl.SSLContext) -> Link:
    """A connection to the relay that comes from ``host``."""
    network, target = Network(PrivateKey(os.urandom(32)), NativeCrypto()), Multiaddr.parse(address)
    _, port = target.host_port
    _, wire = await picows.ws_connect(
        lambda: WsWire(lambda made, _: network.connect(made, target, initiator=True)),
        f"wss://localhost:{port}/",
        ssl_context=context,
        websocket_handshake_timeout=SOON,
        local_addr=(host, 0),
    )
    assert isinstance(wire, WsWire)
    assert wire.link is not None
    await wire.link.ready
    return wire.link


async def doctor_is_content(site: str, folder: Path) -> None:
    """It walks all the way through the proxy, with the test's authority as one that is known."""
    with started([KWAAINET, "doctor", "--json", site], folder, "doctor") as running:
        code = await asyncio.to_thread(running.process.wait, PATIENCE)
        told = json.loads(running.out.read_text())
        assert (code, told["reachable"], told["why"]) == (0, True, "")
        steps = [step["name"] for step in told["steps"]]
        assert steps[:6] == ["dns", "tcp", "tls", "page", "clock", "relay address"]
        assert "relay dns" not in steps, "page and relay are at one place"


async def its_operator_sees_it(browser: Browser, site: str, relay_id: str) -> None:
    """The operator's page: every block is covered by the tab, and the circuit through which it is asked."""
    page = await browser.new_page()
    await page.goto(f"{site}operator")
    async with asyncio.timeout(PATIENCE):
        while not await page.evaluate("document.querySelectorAll('.blocks .thin').length"):
            await asyncio.sleep(0.05)
        while not await page.evaluate(r"/^circuits\t[1-9]/m.test(document.body.innerText)"):
            await asyncio.sleep(0.05)
    shown = await page.evaluate("document.body.innerText")
    assert "every block has a server" in shown, shown
    assert relay_id in shown
    assert await page.evaluate("document.getElementById('state').className") == "", shown
    await page.close()


def test_a_tab_serves_through_nginx_and_addresses_are_kept(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "authority")
    issued = authority.issue("localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    context = ssl.create_default_context(cafile=str(authority.root))
    upstream, secure, plain = (free_port() for _ in range(3))
    public = f"/dns4/localhost/tcp/{secure}/tls/ws"
    flags = ["--http", f"127.0.0.1:{upstream}", "--listen", f"/ip4/127.0.0.1/tcp/{upstream}/ws"]
    flags += ["--announce", public, "--trusted-proxy", "127.0.0.1", "--model", str(small_model)]

    async def main() -> None:
        with (
            relay(tmp_path, *flags, "--prefix", PREFIX) as origin,
            nginx(tmp_path / "nginx", upstream, secure, plain, issued),
        ):
            [announced] = origin["maddrs"]
            assert announced.startswith(public)
            site = f"https://localhost:{secure}/"
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                redirected = session.get(f"http://localhost:{plain}/x?y", allow_redirects=False)
                async with redirected as answer:
                    assert (answer.status, answer.headers["Location"]) == (308, "https://localhost/x?y")
            async with await Browser.launch(flags=[issued.chromium]) as browser, joined(announced) as peer:
                tab = await open_tab(browser, site, backend="wasm")
                assert await tab.page.evaluate("[isSecureContext, crossOriginIsolated]") == [True, True]
                online = await tab.contribute()
                link = await connected_from(CLIENT, announced, context)
                origin["running"].printed(f"at /ip4/{CLIENT}/tcp/")
                hidden = hidden_states(1, 3)
                inference = await peer.session(online["peer_id"])
                wanted = await expected(small_model, hidden)
                np.testing.assert_allclose(await inference.step(hidden), wanted, atol=2e-4)
                await its_operator_sees_it(browser, site, announced.rpartition("/")[2])
                link.close("enough")
                await doctor_is_content(site, tmp_path)
                await tab.stop()

    asyncio.run(main())
