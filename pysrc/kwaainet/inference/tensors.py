"""The tensors of one request: which argument is which, and whether they have the right shape.

Follows Petals' ``utils/packaging.py`` (args_structure: ``((b"__T0", …), {})`` where ``b"__Tn"`` is an
index into the request's tensors) and ``server/block_functions.py`` (hidden, prompts, hypo_ids).
Rule of the file: shapes and dtypes are checked on what the message declares, before any decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compression.codec import CompressionType, deserialize, serialize
from ..errors import LimitExceeded, RequestError
from ..ports import Floats
from ..wire import msgpack
from ..wire.messages import ExpertRequest, Tensor

MAX_TENSORS = 16  # of one request; stock clients send three
MAX_METADATA_SIZE = 64 * 1024  # bytes; stock clients send some 300
MAX_BATCH = 1024  # rows
FLOAT_DTYPES = ("float32", "float16", "bfloat16")
_MARK = b"__T"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask of a span: hidden sizes are element counts, lengths are tokens."""

    hidden_size: int
    max_length: int
    max_batch: int = MAX_BATCH


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """How the caller wants its hidden states back."""

    dtype: str = "float32"
    compression: CompressionType = CompressionType.NONE

    def pack(self, hidden: Floats) -> Tensor:
        """hidden [batch, n, hidden] float32 -> the reply's tensor."""
        return serialize(hidden, self.compression, self.dtype)


def metadata(request: ExpertRequest) -> dict[str, Any]:
    """The request's metadata map, empty if absent. ``LimitExceeded``, ``ProtocolError``, ``RequestError``."""
    if len(request.metadata) > MAX_METADATA_SIZE:
        raise LimitExceeded(f"metadata of {len(request.metadata)} bytes; {MAX_METADATA_SIZE} are allowed")
    value = msgpack.loads(request.metadata) if request.metadata else {}
    if not isinstance(value, dict):
        raise RequestError(f"metadata is a {type(value).__name__}; send a MessagePack map")
    return value


def arguments(tensors: Sequence[Tensor], structure: object) -> list[Tensor | None]:
    """The call's positional arguments: by ``args_structure`` if given, else in order.

    ``None`` stands for an argument without a tensor. Keyword arguments are ignored, as Petals does.
    """
    if len(tensors) > MAX_TENSORS:
        raise RequestError(f"{len(tensors)} tensors in one request; at most {MAX_TENSORS} are allowed")
    if structure is None:
        return list(tensors)
    if not (isinstance(structure, tuple | list) and len(structure) == 2):
        raise RequestError("args_structure must be a pair of positional and keyword arguments")
    positional = structure[0]
    if not isinstance(positional, tuple | list) or len(positional) > MAX_TENSORS:
        raise RequestError(f"args_structure must list at most {MAX_TENSORS} positional arguments")
    return [_argument(mark, tensors) for mark in positional]


def _argument(mark: object, tensors: Sequence[Tensor]) -> Tensor | None:
    if mark is None:
        return None
    digits = mark[len(_MARK) :] if isinstance(mark, bytes) and mark.startswith(_MARK) else b""
    if not (digits.isdigit() and len(digits) < 4):
        raise RequestError(f"args_structure holds {str(mark)[:40]!r} where b'__T<number>' was expected")
    index = int(digits)
    if index >= len(tensors):
        raise RequestError(f"args_structure points at tensor {index} of {len(tensors)}")
    return tensors[index]


def is_dummy(tensor: Tensor | None) -> bool:
    """Whether this argument was left out: absent, or a tensor without elements."""
    return tensor is None or prod(tensor.size) == 0


def check_hidden(tensor: Tensor | None, limits: Limits) -> tuple[int, int]:
    """(batch, tokens) of a hidden-states tensor; ``RequestError`` if it does not fit the span."""
    if tensor is None:
        raise RequestError("the request has no hidden states; send [batch, tokens, hidden size]")
    if tensor.dtype not in FLOAT_DTYPES:
        raise RequestError(
            f"hidden states are {tensor.dtype[:20]!r}; {', '.join(FLOAT_DTYPES)} are supported"
        )
    size = tuple(tensor.size)
    if len(size) != 3 or size[2] != limits.hidden_size:
        raise RequestError(
            f"hidden states have the shape {list(size[:8])}; expected [batch, tokens, {limits.hidden_size}]"
        )
    batch, tokens = size[:2]
    if not 1 <= batch <= limits.max_batch:
        raise RequestError(f"a batch of {batch}; 1 to {limits.max_batch} are allowed")
    if not 0 <= tokens <= limits.max_length:
        raise RequestError(f"{tokens} tokens at once; at most {limits.max_length} are allowed")
    return batch, tokens


def check_gradient(tensor: Tensor | None, hidden: Tensor) -> None:
    """``RequestError`` unless the gradient of the output is shaped as the output is, like ``hidden``."""
    if tensor is None or tensor.dtype not in FLOAT_DTYPES or tuple(tensor.size) != tuple(hidden.size):
        found = "missing" if tensor is None else f"{tensor.dtype[:20]} {list(tensor.size[:8])}"
        raise RequestError(f"the output's gradient is {found}; floats {list(hidden.size)} are expected")


def check_prompts(tensor: Tensor | None, blocks: int, hidden: Tensor) -> bool:
    """Whether there are deep prompts; ``RequestError`` unless they fit so many blocks and ``hidden``."""
    if tensor is None or is_dummy(tensor):
        return False
    batch, tokens, width = hidden.size
    size = tuple(tensor.size)
    fits = len(size) == 4 and size[0] == blocks and size[1] in (1, batch) and size[3] == width
    if tensor.dtype not in FLOAT_DTYPES or not fits or size[2] > tokens:
        raise RequestError(
            f"deep prompts are {tensor.dtype[:20]!r} {list(size[:8])}; "
            f"expected floats [{blocks}, 1 or {batch}, at most {tokens}, {width}]"
        )
    return True


def unpack_hidden(tensor: Tensor) -> Floats:
    """A checked tensor of hidden states, gradients or prompts as float32 of its own shape."""
    if is_dummy(tensor):
        return np.zeros(tuple(tensor.size), np.float32)
    return np.ascontiguousarray(deserialize(tensor), np.float32)


def unpack_hypo_ids(tensor: Tensor | None, batch: int) -> list[int] | None:
    """The rows to reorder to, or ``None`` if the request does not reorder; ``RequestError``."""
    if tensor is None or is_dummy(tensor):
        return None
    if tensor.dtype != "int64" or tuple(tensor.size) != (batch,):
        raise RequestError(
            f"hypo_ids are {tensor.dtype[:20]} {list(tensor.size[:8])}; expected int64 [{batch}]"
        )
    rows: NDArray[Any] = deserialize(tensor)
    if rows.min() < 0 or rows.max() >= batch:
        raise RequestError(f"hypo_ids go from {rows.min()} to {rows.max()}; rows are 0 to {batch - 1}")
    return [int(row) for row in rows]


def reply_format(hidden: Tensor, options: dict[str, Any]) -> ReplyFormat:
    """The request's own dtype; ``output_compression`` if asked for, else none (as our schema says)."""
    return reply_formats(hidden, options, 1)[0]


def reply_formats(hidden: Tensor, options: dict[str, Any], count: int) -> list[ReplyFormat]:
    """The same for a reply of so many tensors."""
    wanted = options.get("output_compression")
    if wanted is None:
        return [ReplyFormat(hidden.dtype)] * count
    if not isinstance(wanted, tuple | list) or len(wanted) != count:
        raise RequestError(f"output_compression must be a tuple of {count}: one number for each tensor")
    return [ReplyFormat(hidden.dtype, _compression(number, hidden.dtype)) for number in wanted]


def _compression(number: object, dtype: str) -> CompressionType:
    if type(number) is not int or number not in CompressionType.__members__.values():
        raise RequestError(f"output_compression {str(number)[:40]!r} is no known compression")
    compression = CompressionType(number)
    if dtype == "bfloat16" and compression in _NOT_FOR_BFLOAT16:
        raise RequestError(f"{compression.name} cannot carry bfloat16; ask for NONE or an 8-bit one")
    return compression


def check_common(options: dict[str, Any]) -> None:
    """What every request's metadata may say beside its tensors; ``RequestError``."""
    adapter = options.get("active_adapter")
    if adapter:
        raise RequestError(f"adapter {str(adapter)[:80]!r} is not served here; this server has none")
    points = options.get("points", 0)
    if not isinstance(points, int | float):
        raise RequestError(f"points are {str(points)[:40]!r}; a number is expected")


_NOT_FOR_BFLOAT16 = (CompressionType.FLOAT16, CompressionType.MEANSTD_16BIT)
