"""The page and the relay under a certificate, on one port: a tab serves, and goes on while it is replaced."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from pathlib import Path

import numpy as np
import pytest
from authority import Authority
from browser.peers import PREFIX, SMALL, expected, hidden_states, joined
from browser.tabs import SOON, eventually, open_tab
from interop.running import free_port, relay

from kwaainet.native.chromium import Browser


def served_names(port: int, root: Path) -> list[str]:
    """Of the certificate that a connection made now is shown."""
    context = ssl.create_default_context(cafile=str(root))
    with (
        socket.create_connection(("127.0.0.1", port), SOON) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as shown,
    ):
        return [str(value) for _, value in (shown.getpeercert() or {})["subjectAltName"]]  # type: ignore[misc]


def test_a_tab_serves_over_https_and_wss_while_the_certificate_is_replaced(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "authority")
    issued = authority.issue("localhost")
    port = free_port()
    flags = ["--model", small_model, "--prefix", PREFIX, *issued.flags, "--http", f"127.0.0.1:{port}"]
    flags += ["--listen", f"/ip4/127.0.0.1/tcp/{port}/tls/ws"]
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))

    async def main() -> None:
        with relay(tmp_path, *flags) as origin:
            assert origin["http"] == f"https://localhost:{port}/"
            wss = next(address for address in origin["maddrs"] if "/tls/ws/" in address)
            assert wss.startswith(f"/dns4/localhost/tcp/{port}/tls/ws/p2p/")
            async with (
                await Browser.launch(flags=[issued.chromium]) as browser,
                joined(wss) as peer,
            ):
                tab = await open_tab(browser, origin["http"], backend="wasm")
                assert await tab.page.evaluate("[isSecureContext, crossOriginIsolated]") == [True, True]
                online = await tab.contribute()
                hidden = hidden_states(1, 4)
                session = await peer.session(online["peer_id"])
                first = await session.step(hidden[:, :2])
                authority.issue("localhost", "renewed.example")
                origin["running"].process.send_signal(signal.SIGHUP)

                async def renewed() -> bool:
                    names = await asyncio.to_thread(served_names, port, authority.root)
                    return "renewed.example" in names

                await eventually(renewed)
                second = await session.step(hidden[:, 2:])
                found = np.concatenate([first, second], axis=1)
                wanted = await expected(small_model, hidden)
                np.testing.assert_allclose(found, wanted, atol=2e-4)
                assert found.shape[2] == SMALL.hidden_size
                await tab.stop()

    asyncio.run(main())
