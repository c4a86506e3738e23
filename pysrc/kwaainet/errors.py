"""The one exception tree.

Rule of the file: whose fault it is decides the branch. ``LocalError`` is ours or our caller's,
``InputError`` lies in a file or value handed to us, ``RemoteError`` is the peer's. A message says
what was wrong, with what value, and what to do about it.
"""

from __future__ import annotations

# What an error's text begins with when the request was sound and another server could serve it: this
# one leaves, is loading, is full, or lost its device. Texts are all that an error frame carries, and a
# client may try elsewhere only after these; any other reported error is its caller's to see.
UNAVAILABLE = "server unavailable: "


def says_unavailable(text: str) -> bool:
    """Whether a reported error, as it came (a stream's ``str`` or a unary call's ``repr``), says so."""
    return UNAVAILABLE in text[:64]


class KwaaiNetError(Exception):
    """Root of every error this package raises on purpose."""


# --- ours, or that of whoever called us -------------------------------------------------------


class LocalError(KwaaiNetError):
    """This side did something wrong or ran out of something."""


class ConfigError(LocalError):
    """A flag, option or environment value cannot be used."""


class UsageError(LocalError):
    """A machine or port was driven against its contract (a bug on this side)."""


class CapacityError(LocalError):
    """A stated budget (cache tokens, sessions, streams) is used up; the caller may try later."""


class Unavailable(CapacityError):
    """We cannot serve a sound request now, another server could; the text says so (``UNAVAILABLE``)."""

    def __init__(self, why: str) -> None:
        super().__init__(UNAVAILABLE + why)


class Paused(Unavailable):
    """The owner of the machine has paused its node, or a limit of theirs has."""


class EngineError(LocalError):
    """The inference engine could not build or run a graph."""


class DeviceLost(EngineError):
    """The GPU device went away; the engine must be rebuilt before the next run."""


# --- data handed to us ------------------------------------------------------------------------


class InputError(KwaaiNetError):
    """A file or value handed to us is not what it claims to be."""


class ModelFileError(InputError):
    """A model file is truncated, corrupt, or breaks its format."""


class Truncated(ModelFileError):
    """More bytes are needed to go on; ``needed`` counts them from the start of the file."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class UnsupportedModel(InputError):
    """A well-formed model of an architecture or type that is not supported; it is named."""


class IntegrityError(InputError):
    """Bytes do not have the hash they should have."""


# --- the peer's -------------------------------------------------------------------------------


class RemoteError(KwaaiNetError):
    """The peer did something wrong, or is not there."""


class ProtocolError(RemoteError):
    """The peer sent bytes that break the protocol."""


class LimitExceeded(ProtocolError):
    """The peer sent more than a stated cap allows."""


class RequestError(RemoteError):
    """A well-formed request that cannot be served: unknown block, wrong shape, wrong dtype."""


class ApiError(RequestError):
    """A request over HTTP that is refused: ``status`` is HTTP's, ``param`` names the field at fault,
    ``code`` the reason for programs, ``retry_after`` (seconds) when asking again may help."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after


class HandshakeError(RemoteError):
    """The peer failed to prove its identity or to agree on a protocol."""


class ClockSkew(RemoteError):
    """The peer's clock and ours differ by more than the DHT allows."""


class RpcError(RemoteError):
    """The peer reported an error of its own while serving our call; the text is the peer's."""


class Unreachable(RemoteError):
    """No connection to the peer could be made."""


class Ailment(RemoteError):
    """A relay does not do what it should: the text is the cause, ``remedy`` what its operator can do."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.remedy = remedy


class StreamReset(RemoteError):
    """The stream or its connection ended before the call did."""
