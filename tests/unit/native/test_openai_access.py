"""Without keys only this machine's own programs get in; pages of others never do unless they are named."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from kwaainet.errors import ApiError, ConfigError
from kwaainet.native.openai_access import Access, is_loopback
from kwaainet.native.openai_limits import ApiKeys

KEYS = ApiKeys(["first-key"])


def caller(access: Access, host: str = "127.0.0.1:8000", **headers: str) -> str:
    return access.caller(make_mocked_request("GET", "/v1/models", {"Host": host, **headers}))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "127.8.9.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    Access().check_address(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "localhost.example", "example.org", ""])
def test_an_open_door_to_the_world_must_be_meant(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="--api-open"):
        Access().check_address(host)
    Access(KEYS).check_address(host)
    Access(open=True).check_address(host)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "[::1]"])
def test_own_names_are_answered_without_a_key(host: str) -> None:
    assert caller(Access(), host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "a:b:c", "[::2]"]
)
def test_other_names_that_lead_here_are_not(host: str) -> None:
    with pytest.raises(ApiError) as caught:
        caller(Access(), host)
    assert caught.value.status == 403
    assert caller(Access(open=True), host)
    assert caller(Access(KEYS), host, Authorization="Bearer first-key").startswith("key-")


def test_a_key_is_asked_for_where_there_are_any() -> None:
    with pytest.raises(ApiError) as caught:
        caller(Access(KEYS))
    assert caught.value.status == 401


def test_pages_of_named_sites_only() -> None:
    def headers(access: Access, origin: str | None) -> tuple[dict[str, str], dict[str, str]]:
        sent = {"Access-Control-Request-Headers": "authorization, x-stainless-os"}
        request = make_mocked_request("OPTIONS", "/v1/models", sent | ({"Origin": origin} if origin else {}))
        return access.cors(request), access.preflight(request)

    site = "https://a.example"
    assert headers(Access(), site) == ({}, {})
    for origin in ("https://b.example", "null", None):
        assert headers(Access(origins=[site]), origin) == ({"Vary": "Origin"}, {"Vary": "Origin"})
    for access in (Access(origins=[site]), Access(origins=["*"])):
        answer, preflight = headers(access, site)
        assert answer["Access-Control-Allow-Origin"] == site
        assert preflight["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
