"""Names of blocks: ``{prefix}.{i}`` for one, joined by spaces for a chain.

Follows Petals' ``data_structures.py`` (UID_DELIMITER, CHAIN_DELIMITER) and the handler's
``_check_uids``. Rule of the file: text in, numbers out, or an error that names the block at fault.
"""

from __future__ import annotations

from itertools import pairwise

from ..errors import InputError, RequestError
from ..types import BlockRange

MAX_BLOCKS = 1024  # of one model; Llama 405B has 126
MAX_PREFIX_LENGTH = 128  # characters
_MAX_UID_LENGTH = MAX_PREFIX_LENGTH + 1 + len(str(MAX_BLOCKS))
_DELIMITER, _CHAIN_DELIMITER = ".", " "


def check_prefix(prefix: str) -> str:
    """The prefix itself if a swarm can use it; ``InputError`` says which rule it breaks."""
    if not 0 < len(prefix) <= MAX_PREFIX_LENGTH:
        raise InputError(
            f"DHT prefix {prefix[:40]!r} has {len(prefix)} characters; 1 to {MAX_PREFIX_LENGTH} are allowed"
        )
    for character in (_DELIMITER, _CHAIN_DELIMITER):
        if character in prefix:
            raise InputError(
                f"DHT prefix {prefix!r} holds {character!r}, which delimits block uids; write '-' instead"
            )
    if not prefix.isprintable():
        raise InputError(f"DHT prefix {prefix!r} holds a control character; use printable ones")
    return prefix


def uid(prefix: str, block: int) -> str:
    """The name of one block, which is also its key in the DHT."""
    return f"{prefix}{_DELIMITER}{block}"


def split(text: str) -> tuple[str, int]:
    """Inverse of ``uid``; ``RequestError`` for anything but ``PREFIX.NUMBER``."""
    prefix, delimiter, number = text.rpartition(_DELIMITER)
    plain = number.isascii() and number.isdigit() and len(number) <= len(str(MAX_BLOCKS))
    if not (delimiter and plain and str(int(number)) == number and int(number) < MAX_BLOCKS):
        raise RequestError(f"{text[:_MAX_UID_LENGTH]!r} is not a block uid; it must read PREFIX.NUMBER")
    return prefix, int(number)


def join(prefix: str, blocks: BlockRange) -> str:
    """The uid of a request for a chain of blocks: ``m.2 m.3 m.4``."""
    return _CHAIN_DELIMITER.join(uid(prefix, block) for block in range(blocks.start, blocks.end))


def within(asked: BlockRange, served: BlockRange) -> BlockRange:
    """Blocks of a model, all of them in ``served``, counted from where ``served`` starts."""
    return BlockRange(asked.start - served.start, asked.end - served.start)


def parse_chain(text: str, prefix: str, served: BlockRange) -> BlockRange:
    """The blocks that a request's uid asks for, all of them within ``served``.

    ``RequestError`` names the first uid that is unknown here or breaks the ascending order.
    """
    limit = MAX_BLOCKS * (_MAX_UID_LENGTH + 1)
    if len(text) > limit:
        raise RequestError(f"the request's uid has {len(text)} characters; at most {limit} are allowed")
    if not text:
        raise RequestError(f"the request names no block; this server has {_served(prefix, served)}")
    numbers = [_known(one, prefix, served) for one in text.split(_CHAIN_DELIMITER)]
    for before, after in pairwise(numbers):
        if after != before + 1:
            raise RequestError(
                f"{uid(prefix, after)} does not follow {uid(prefix, before)}; ask in ascending order"
            )
    return BlockRange(numbers[0], numbers[-1] + 1)


def _known(text: str, prefix: str, served: BlockRange) -> int:
    given, block = split(text)
    if given != prefix or block not in served:
        raise RequestError(
            f"block {text[:_MAX_UID_LENGTH]!r} is not served here; this server has {_served(prefix, served)}"
        )
    return block


def _served(prefix: str, served: BlockRange) -> str:
    return f"{uid(prefix, served.start)} to {uid(prefix, served.end - 1)}"
