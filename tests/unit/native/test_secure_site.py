"""A site's address for people; the rest is tested with doors, where it is used."""

from pathlib import Path

import pytest
from authority import Authority

from kwaainet.native.doors import Doors
from kwaainet.native.secure_site import shown_address
from kwaainet.native.tls import Tls


@pytest.mark.parametrize(
    ("host", "port", "plain", "secure"),
    [
        ("127.0.0.1", 80, "http://127.0.0.1:80/", "https://127.0.0.1:80/"),
        ("0.0.0.0", 443, "http://localhost:443/", "https://relay.example/"),
        ("::", 8443, "http://localhost:8443/", "https://relay.example:8443/"),
        ("::1", 8443, "http://[::1]:8443/", "https://relay.example:8443/"),
    ],
)
def test_the_address_is_one_that_a_browser_takes(
    tmp_path: Path, host: str, port: int, plain: str, secure: str
) -> None:
    issued = Authority(tmp_path).issue("*.relay.example", "relay.example", "127.0.0.1")
    assert shown_address(host, port, Doors()) == plain
    assert shown_address(host, port, Doors(tls=Tls(issued.cert, issued.key))) == secure
