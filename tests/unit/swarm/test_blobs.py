"""A request for a part of a tensor survives the wire; one that asks too much does not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import LimitExceeded, ProtocolError
from kwaainet.swarm.blobs import MAX_BLOB, MAX_LENGTH, MAX_REQUEST_SIZE, BlobPart
from kwaainet.wire import msgpack

DIGEST = bytes(range(32))


def test_a_request_comes_back() -> None:
    for part in (BlobPart(DIGEST, 0, 1), BlobPart(DIGEST, MAX_BLOB, MAX_LENGTH)):
        assert BlobPart.decode(part.encode()) == part
        assert len(part.encode()) <= MAX_REQUEST_SIZE


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([], ProtocolError),
        ({"sha256": DIGEST[1:], "offset": 0, "length": 1}, ProtocolError),
        ({"sha256": DIGEST.hex(), "offset": 0, "length": 1}, ProtocolError),
        ({"sha256": DIGEST, "offset": 0.0, "length": 1}, ProtocolError),
        ({"sha256": DIGEST, "offset": 0, "length": 0}, LimitExceeded),
        ({"sha256": DIGEST, "offset": 0, "length": MAX_LENGTH + 1}, LimitExceeded),
        ({"sha256": DIGEST, "offset": -1, "length": 1}, LimitExceeded),
        ({"sha256": DIGEST, "offset": MAX_BLOB + 1, "length": 1}, LimitExceeded),
        ({"sha256": DIGEST, "more": "x" * MAX_REQUEST_SIZE}, LimitExceeded),
    ],
)
def test_other_requests_are_refused(value: object, error: type[ProtocolError]) -> None:
    with pytest.raises(error):
        BlobPart.decode(msgpack.dumps(value))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_a_protocol_error(data: bytes) -> None:
    with suppress(ProtocolError):
        BlobPart.decode(data)
