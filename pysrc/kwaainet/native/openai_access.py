"""Who is let in to the OpenAI endpoint: by key, or anybody on this machine.

Follows RFC 6750 (bearer tokens) and the Fetch standard (CORS). Rule of the file: without keys only
this machine's own programs may call, unless the operator says otherwise; a page in a browser on this
machine is not one of them, nor one that has its own name resolve to this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from aiohttp import web

from ..errors import ApiError, ConfigError
from .openai_limits import ApiKeys


@dataclass(frozen=True, slots=True)
class Access:
    """``open``: anybody from anywhere may call without a key. ``origins``: whose pages may, or ``*``."""

    keys: ApiKeys = field(default_factory=ApiKeys)
    open: bool = False
    origins: Sequence[str] = ()

    def check_address(self, host: str) -> None:
        """Raises ``ConfigError`` if listening there would let in everybody by mistake."""
        if not self.keys and not self.open and not is_loopback(host):
            raise ConfigError(
                f"anybody who reaches {host} could use the OpenAI endpoint: give --api-key-file FILE, "
                "or --api-open if that is meant"
            )

    def caller(self, request: web.Request) -> str:
        """A name for who calls, to count by. Raises ``ApiError`` 401 or 403."""
        if self.keys:
            return self.keys.caller(request.headers.get("Authorization", ""))
        if not self.open and not is_loopback(_name(request.host)):
            raise ApiError(
                f"without API keys only this machine's own names are answered, not {request.host!r:.100}",
                status=403,
                code="host_not_allowed",
            )
        return request.remote or "somebody"

    def cors(self, request: web.Request) -> dict[str, str]:
        """Headers by which the page that asks may read the answer."""
        origin = request.headers.get("Origin", "")
        if not origin or not ("*" in self.origins or origin in self.origins):
            return {"Vary": "Origin"} if self.origins else {}
        exposed = "Retry-After, X-Request-Id"
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": exposed,
            "Vary": "Origin",
        }

    def preflight(self, request: web.Request) -> dict[str, str]:
        """Headers that answer a browser's question before a request of a page's."""
        allowed = self.cors(request)
        if "Access-Control-Allow-Origin" in allowed:
            wished = request.headers.get("Access-Control-Request-Headers", "authorization, content-type")
            allowed["Access-Control-Allow-Headers"] = wished[:1000]  # SDKs send many of their own
            allowed["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            allowed["Access-Control-Max-Age"] = "600"
        return allowed


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's for itself alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    bare = name if colon and port.isdigit() else host
    return bare.removeprefix("[").removesuffix("]").lower()
