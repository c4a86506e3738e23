"""A local socket on which whoever may use the relay's folder asks it things and tells it what to do.

One request and one reply a connection, each one line of JSON: ``{"ask": "peers"}`` is answered by
``{"ok": ...}`` or ``{"error": "why"}``. Rule of the file: it only carries; whoever can open the socket (mode
0600) may ask everything, and a caller that is slow or sends too much costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import ConfigError, KwaaiNetError, RpcError, Unreachable

log = logging.getLogger(__name__)

MAX_REQUEST = 64 << 10  # bytes
MAX_REPLY = 16 << 20  # bytes: all peers of a full relay
MAX_CALLERS = 16  # at once
TIMEOUT = 5.0  # seconds for a request to come, and for its reply to be taken
_MODE = 0o177  # of the umask: the owner's alone

Answer: TypeAlias = Callable[[Mapping[str, Any]], Any]  # raises ``KwaaiNetError``: what was wrong


class AdminSocket:
    """Answers each connection; ``served`` opens and closes it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._callers = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its request to its end."""
        self._callers += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                reply = await self._reply(reader)
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError) as error:
            log.info("a caller of the admin socket left, or was slow: %s", error or "timeout")
        finally:
            self._callers -= 1
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        crowded = self._callers > MAX_CALLERS
        try:
            line = await reader.readline()
        except ValueError:
            return {"error": f"a request is one line of at most {MAX_REQUEST} bytes"}
        if crowded:  # only said now: what is left unread would reset the connection, and the words with it
            return {"error": f"{MAX_CALLERS} others ask at this moment; try again"}
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "a request is one line of JSON"}
        if not isinstance(request, dict):
            return {"error": "a request is a JSON object"}
        try:
            return {"ok": self._answer(request)}
        except KwaaiNetError as error:
            return {"error": str(error)}
        except Exception:
            log.exception("a request on the admin socket failed")
            return {"error": "the relay failed on it; see its log"}


@asynccontextmanager
async def served(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Answer on a socket at ``path``. ``ConfigError`` where another process already does; a path that no
    socket can have is logged, and the relay runs without."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(sock, path)
    except OSError as error:
        sock.close()
        log.warning("no admin socket at %s: %s; a shorter --state-dir may help", path, error)
        yield
        return
    except ConfigError:
        sock.close()
        raise
    server = await asyncio.start_unix_server(AdminSocket(answer).serve, sock=sock, limit=MAX_REQUEST)
    try:
        yield
    finally:
        server.close()
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _bind(sock: socket.socket, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:  # a process that was killed left it behind
            path.unlink(missing_ok=True)
        else:
            raise ConfigError(f"another relay runs with {path.parent}; give each its own --state-dir")
    before = os.umask(_MODE)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)
    sock.setblocking(False)


async def ask(path: Path, request: Mapping[str, Any]) -> Any:
    """What a relay answers. ``Unreachable`` if none runs there; ``RpcError`` with its words if it refuses."""
    try:
        async with asyncio.timeout(2 * TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_REPLY)
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
        reply = json.loads(line)
    except (FileNotFoundError, ConnectionRefusedError):
        raise Unreachable(
            f"no relay runs with {path.parent}; start one with that --state-dir, or name the right one"
        ) from None
    except PermissionError:
        raise Unreachable(f"{path} is another user's; ask as the user that the relay runs as") from None
    except (OSError, ValueError, TimeoutError) as error:
        raise Unreachable(f"the relay at {path} did not answer: {error or 'timeout'}") from None
    if "error" in reply:
        raise RpcError(str(reply["error"]))
    return reply["ok"]
